"""aselect-doctor: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import asdict

from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Verbose


def _doctor(
    *,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - for `entry`
) -> None:
    """Check whether aselect-run works on this machine, and report problems, each with the command that fixes it.

    The exit code is 1 if a problem prevents models from running.
    """
    from aselect_runtime.doctor import examine, probe

    facts = probe()
    findings = examine(facts)
    if as_json:
        printed = asdict(facts) | {"opencv_build": bool(facts.opencv_build)}
        print(json.dumps({"facts": printed, "findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            print(f"{finding.level:<6}{finding.check:<12}{finding.what}")
            if finding.fix:
                print(f"{'':<18}→ {finding.fix}")
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(1)


doctor = entry(_doctor, examples=["aselect-doctor"])
