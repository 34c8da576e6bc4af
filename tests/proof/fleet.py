"""Videos in bulk by Ray Data on two local workers, of which one is killed: `make test-fleet`.

    python -m tests.proof.fleet

The workers' environment holds the device's wheel and Ray alone. docs/examples/fleet.py runs in it as docs/fleet.md
says: in one process, on two workers, and on two workers of which one is killed in the middle of a video.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from aselect_runtime.errors import GateError
from tests.proof.environments import Environment
from tests.proof.steps import ROOT, Check, Seen, device_wheel, exported, pip, prove, run

VERSION = "2.60.0"
FLEET = Environment("fleet", "Ray")
EXAMPLE = ROOT / "docs" / "examples" / "fleet.py"
VIDEOS, FRAMES = 4, 150
MARK = "ASELECT_FLEET_PROOF"
"""An environment variable by which the processes of one cluster are known."""

Lines = dict[str, str]
"""Name of a video's file of lines -> its content."""


def main() -> None:
    """Run the proof."""
    prove("fleet", steps)


def steps(place: Path) -> Seen:
    """Install Ray where it is missing, and compare the ways of running."""
    install(place / "wheels")
    model = exported(place / "model", "fp32", "--no-ladder")
    videos = filmed(place / "videos", model)
    expected = analysed(model, videos, place / "one", 0)
    checks = [compared("two workers", expected, analysed(model, videos, place / "two", 2))]
    killed = analysed(model, videos, place / "killed", 2, kill=True)
    checks.append(compared("two workers, one killed with `kill -9` in a video", expected, killed))
    return Seen(versions(), tuple(checks))


def install(wheels: Path) -> None:
    """Ray, and the device's wheel of today with its packages."""
    wheels.mkdir()
    wheel = device_wheel(wheels)
    FLEET.install(f"ray[data]=={VERSION}", f"{wheel}[cpu]")
    # pip leaves out what has the same version
    pip("install", "--force-reinstall", "--no-deps", wheel, python=FLEET.python)


def versions() -> dict[str, str]:
    """What it was tried with."""
    names = ("ray", "pyarrow", "onnxruntime", "numpy")
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    seen: dict[str, str] = json.loads(run([FLEET.python, "-I", "-c", code, *names]))
    return seen


def filmed(folder: Path, model: Path) -> Path:
    """A folder of videos of synthetic streets, each of another one."""
    folder.mkdir()
    code = "from aselect_runtime.commands.run import run; run()"
    for seed in range(VIDEOS):
        street = f"synthetic://street?size=96x128&seed={seed}&frames={FRAMES}"
        run([sys.executable, "-c", code, model, street, "--device", "cpu", "-o", folder / f"{seed}.mp4"])
    return folder


def analysed(model: Path, videos: Path, out: Path, workers: int, kill: bool = False, packages: str = "") -> Lines:
    """The lines that the example writes; with `kill`, a worker is killed after the first of them.

    `packages` is a folder of packages that come before the installed ones.
    """
    FLEET.check()
    mark = uuid.uuid4().hex
    environment = os.environ | {MARK: mark, "PYTHONPATH": packages, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [FLEET.python, EXAMPLE, model, videos, out, "--workers", str(workers)]
    log = out.with_suffix(".log")
    with log.open("wb") as said:
        process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=said, stderr=said, cwd=out.parent
        )
        try:
            if kill:
                kill_worker(process, out, mark)
            code = process.wait(600)
        finally:
            process.kill()
            end_cluster(mark)
    if code != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise GateError(f"fleet.py: got exit code {code} ({' '.join(last)}), expected 0; read its log")
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(out.iterdir())}


def kill_worker(process: subprocess.Popen[bytes], out: Path, mark: str) -> None:
    """kill -9 of a worker while videos are left; raises GateError if there is none."""
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        workers = [number for number, name in members(mark) if name.startswith("ray::") and "Analyse" in name]
        if workers and out.is_dir() and 0 < len(list(out.glob("*.jsonl"))) < VIDEOS - 1:
            os.kill(workers[0], signal.SIGKILL)
            return
        time.sleep(0.02)
    raise GateError(
        "fleet.py: got no worker to kill before the end, expected one; look at the names of Ray's processes"
    )


def members(mark: str) -> list[tuple[int, str]]:
    """(process, command line) of a cluster's processes, by the variable in their environment."""
    cluster = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                cluster.append((int(place.name), words))
        except OSError:  # it ended, or is another user's
            continue
    return cluster


def end_cluster(mark: str) -> None:
    """End what the example's cluster left, if it was stopped before its end."""
    for number, _ in members(mark):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


def compared(how: str, expected: Lines, got: Lines) -> Check:
    """Raise GateError unless every video has the lines of one process."""
    frames = sum(text.count("\n") for text in expected.values())
    if len(expected) != VIDEOS or frames != VIDEOS * FRAMES:
        raise GateError(
            f"fleet.py: got {frames} lines of {len(expected)} videos, expected {VIDEOS * FRAMES}; read them"
        )
    if got != expected:
        differ = sorted(name for name in {*got, *expected} if got.get(name) != expected.get(name))
        raise GateError(f"fleet.py, {how}: got other lines of {', '.join(differ)}, expected those of one process")
    return Check(f"docs/examples/fleet.py, {how}", f"{frames} lines of {VIDEOS} videos, the same as in one process")


if __name__ == "__main__":
    main()
