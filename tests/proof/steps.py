"""What the proofs share: commands with one line of error, the device's wheel, exported folders, a file of results."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aselect_runtime.errors import AselectError, GateError, MissingDependencyError
from benchmarks.harness import save, stamp

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build"
CONSTRAINTS = ROOT / "constraints.txt"
STREET = "synthetic://street?size=96x128"
SIZE = "48x64"
"""Of the exported graphs: an emulated processor needs seconds for each frame of the shipped size."""


@dataclass(frozen=True)
class Check:
    """One thing that was tried: what, and what was seen. A check that fails raises, and nothing is recorded."""

    what: str
    seen: str


@dataclass(frozen=True)
class Seen:
    """What a proof saw, with the versions of what it was tried with."""

    versions: dict[str, str]
    checks: tuple[Check, ...]


def run(command: Sequence[str | Path], limit_s: float = 900, cwd: Path = ROOT, **environment: str) -> str:
    """Standard output of a command; raises GateError if it fails, is killed or takes longer than `limit_s` seconds."""
    words = [str(word) for word in command]
    name = " ".join([Path(words[0]).name, *words[1:3]])
    try:
        result = subprocess.run(
            words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        raise GateError(
            f"{name}: got no end within {limit_s:.0f} s, expected one; look at what else the machine runs"
        ) from None
    if result.returncode == 0:
        return result.stdout
    log = BUILD / "proof.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(result.stdout + result.stderr, encoding="utf-8")
    said = (result.stderr.strip() or result.stdout.strip() or "nothing").splitlines()[-1]
    if result.returncode < 0:
        how = f"signal {signal.Signals(-result.returncode).name}"
        raise GateError(f"{name}: got {how} ({said}), expected an end of its own; find what killed it and run it again")
    raise GateError(f"{name}: got exit code {result.returncode} ({said}), expected 0; read {log}")


def found(program: str, package: str) -> str:
    """The path of a program; raises MissingDependencyError that names its package."""
    path = shutil.which(program)
    if path is None:
        raise MissingDependencyError(f"got no {program}, expected it on the PATH; {package}")
    return path


def pip(*arguments: str | Path, python: str | Path = sys.executable) -> None:
    """Run an interpreter's pip, which takes nothing on PYTHONPATH for installed."""
    run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], PYTHONPATH="")


def passed(said: str, tests: str) -> str:
    """How many of `tests` passed and were skipped, from pytest's last line; raises GateError where none passed."""
    last = (said.strip() or "nothing").splitlines()[-1]
    counted = re.findall(r"\d+ (?:passed|skipped)", last)
    if not any("passed" in count for count in counted):
        raise GateError(f"pytest: got {last!r}, expected tests that passed; look at {tests}")
    return ", ".join(counted)


def device_wheel(folder: Path) -> Path:
    """Build the device's wheel into a folder, from a copy: what an earlier build left behind cannot get in."""
    source = shutil.copytree(
        ROOT / "runtime", folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    pip("wheel", "--no-deps", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("aselect_runtime-*.whl")
    return wheel


def exported(folder: Path, precision: str, *options: str, task: str = "seg") -> Path:
    """Export what ships, for frames of 48x64, by a process of this environment."""
    code = "from aselect_export.commands.export import export; export()"
    choices = ["--task", task, "--precision", precision, "--imgsz", SIZE, "--engine", "none"]
    run([sys.executable, "-c", code, *choices, "--out", folder, *options])
    return folder


def record(name: str, seen: Seen, command: str) -> Path:
    """Write what was seen to benchmarks/results/proof-NAME.json, whole, with the date and the machine."""
    path = RESULTS / f"proof-{name}.json"
    save(path, {**stamp(), "command": command, **asdict(seen)})
    return path


def _terminated(number: int, _frame: object) -> None:
    print(f"got {signal.Signals(number).name}, expected to run to the end; nothing is recorded", file=sys.stderr)
    sys.exit(128 + number)


def prove(name: str, steps: Callable[[Path], Seen], command: str | None = None) -> None:
    """Run the steps in an empty folder of build/, print and record what they saw; an error ends the process.

    The record names the `command` that runs them, `make test-NAME` if left out.
    The folder is removed at the end. One that a killed process left behind is removed at the next start.
    """
    place = BUILD / f"proof-{name}"
    # As Ctrl-C: what runs below is ended and what was written is removed.
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        seen = steps(place)
        path = record(name, seen, command or f"make test-{name}")
    except AselectError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)
    for check in seen.checks:
        print(f"{check.what}: {check.seen}")
    print(f"{len(seen.checks)} checks passed, recorded in {path}")
