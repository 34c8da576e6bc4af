"""aselect-build and aselect-doctor: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aselect_edge.command import entry

_Verbose = Annotated[bool, typer.Option("--verbose", help="show tracebacks")]


def _build(
    folder: Annotated[Path, typer.Argument(help="export folder")],
    target: Annotated[str, typer.Option(metavar="SM[,SM]", help="build ahead of time, for example sm86,sm89")] = "",
    workspace: Annotated[int | None, typer.Option(min=1, help="MiB that the builder may use")] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option("--optimization-level", min=0, max=5, help="0 builds fast, 5 builds the fastest engine"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the engines as one JSON object on stdout")] = False,
    verbose: _Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Build TensorRT engines for an export folder: for the GPU at hand, or ahead of time for other ones.

    An engine for the GPU at hand is held against ONNX Runtime before it replaces an older one; if it misses its gate
    the folder's next graph is built (mixed, fp32), and if none passes the exit code is 3. Ctrl-C leaves the folder as
    it was.
    """
    from aselect_runtime.engines import BuildOptions, add_engines
    from aselect_runtime.engines.watch import terminal_watch
    from aselect_runtime.signals import stop_on_signals

    targets = [part.strip() for part in target.split(",") if part.strip()]
    with stop_on_signals() as stop, terminal_watch() as watch:
        engines = add_engines(folder, targets, BuildOptions(workspace, optimization_level), watch, stop)
    if as_json:
        print(json.dumps({"engines": [engine.model_dump() for engine in engines]}))
        return
    for engine in engines:
        verified = "not verified: no GPU ran it" if engine.agreement is None else f"{engine.agreement:.3%} same class"
        print(
            f"{folder / engine.file}  {(folder / engine.file).stat().st_size / 1e6:.1f} MB  {engine.model}, {verified}"
        )


def _doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print facts and findings as one JSON object")] = False,
    verbose: _Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Look at this machine and say what is wrong for aselect-run, with the command that mends it.

    The exit code is 1 if something keeps models from running here.
    """
    from aselect_runtime.doctor import examine, probe

    facts = probe()
    findings = examine(facts)
    if as_json:
        told = asdict(facts) | {"opencv_build": bool(facts.opencv_build)}
        print(json.dumps({"facts": told, "findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            print(f"{finding.level:<6}{finding.check:<12}{finding.what}")
            if finding.mend:
                print(f"{'':<18}→ {finding.mend}")
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(1)


build = entry(_build)
doctor = entry(_doctor)
