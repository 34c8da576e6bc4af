"""Inputs that are damaged at random, the same each time: none may crash, hang or leave a traceback.

    python -m tests.proof.damaged --count 1000

Each is used as a run or a training uses it, by processes that read many one after the other (`tests.proof.damage`).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from aselect_runtime.errors import GateError
from tests.bundles import write_bundle
from tests.conftest import export_folder
from tests.proof.damage import KINDS
from tests.proof.steps import ROOT, Check, Seen, prove
from tests.runtime import videos

BATCH = 100
"""Inputs of one process."""
LIMIT_S = 300.0
"""Seconds for a batch, after which the input that it is at counts as one that hangs."""
CLASSES = '{"classes": [{"id": 0, "name": "road"}, {"id": 1, "name": "car", "color_rgb": [1, 2, 3]}]}'
RULES = """
[zones]
door = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]

[[rules]]
name = "car-at-door"
class = "car"
zone = "door"
above = 0.05
seconds = 1.5
"""


def sound(folder: Path) -> None:
    """Write the inputs as they are before they are damaged."""
    export_folder(folder)
    bundle = write_bundle(folder / "bundle")
    for name in ("bundle.json", "selection.json"):
        shutil.copy(bundle / name, folder / name)
    videos.write(folder / "video.mp4", [number / videos.FPS for number in range(20)], gop=5)
    for name in ("image.jpg", "image.png"):
        cv2.imwrite(str(folder / name), np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    frames = np.zeros((4, 24, 32, 3), np.uint8)
    np.savez_compressed(folder / "verify.npz", frames=frames, class_map=frames[..., 0])
    (folder / "classes.json").write_text(CLASSES)
    (folder / "rules.toml").write_text(RULES)


def tried(folder: Path, count: int) -> Counter[str]:
    """What became of each of `count` inputs: `fine`, `refused`, or what must not be."""
    found: Counter[str] = Counter()
    at = 0
    while at < count:
        last = min(at + BATCH, count)
        lines, end = _batch(folder, at, last)
        done = len(lines) // 2
        found.update(lines[1::2])
        at += done
        if end and at < last:
            found[f"{KINDS[at % len(KINDS)]} {at}: {end}"] += 1
            at += 1
    return found


def _batch(folder: Path, first: int, last: int) -> tuple[list[str], str]:
    """What a process printed, and how it ended where that was not well."""
    command = [sys.executable, "-m", "tests.proof.damage", str(folder), str(first), str(last)]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode().splitlines(), f"no end within {LIMIT_S:.0f} s"
    lines = run.stdout.decode().splitlines()
    if run.returncode < 0:
        return lines, f"signal {signal.Signals(-run.returncode).name}"
    return lines, f"exit code {run.returncode}" if run.returncode else ""


def steps(place: Path, count: int) -> Seen:
    """Everything, in an empty folder; raises GateError for an input that is neither used nor refused."""
    sound(place)
    found = tried(place, count)
    wrong = [what for what in found if what not in {"fine", "refused"}]
    if wrong:
        raise GateError(
            f"got {len(wrong)} of {count} damaged inputs that end badly ({wrong[0]}), expected none; correct the reader"
        )
    seen = f"used {found['fine']}, refused in one line {found['refused']}, crashes 0, tracebacks 0, hangs 0"
    return Seen({"OpenCV": cv2.__version__, "NumPy": np.__version__}, (Check(f"{count} damaged inputs", seen),))


def main() -> None:
    """Run the proof."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    prove("damaged", lambda place: steps(place, count))


if __name__ == "__main__":
    main()
