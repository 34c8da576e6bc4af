"""V4L2 cameras without a kernel module, read by OpenCV from PyPI: `make test-v4l2`.

    python -m tests.proof.v4l2

A library that processes preload imitates the cameras (tests/runtime/v4l2). The gate runs the same tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from aselect_runtime.errors import GateError, MissingDependencyError
from tests.proof.steps import Check, Seen, passed, prove, run
from tests.runtime.v4l2 import cameras

TESTS = "tests/runtime/test_v4l2.py"
FRAMES = 300


def main() -> None:
    """Run the proof."""
    prove("v4l2", steps)


def steps(place: Path) -> Seen:
    """Everything, in an empty folder."""
    library = cameras.build(place)
    if library is None:
        raise MissingDependencyError(
            "got no C compiler for this machine, expected cc and linux/videodev2.h; apt install gcc libc6-dev"
        )
    checks = [every_frame(place / form, library, form) for form in ("YUYV", "MJPG")]
    counts = passed(run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", TESTS]), TESTS)
    checks.append(Check(f"`{TESTS}`: colours, loss and return, names from udev, refusals", counts))
    return Seen({"OpenCV": cv2.__version__, "NumPy": np.__version__}, tuple(checks))


def every_frame(folder: Path, library: Path, form: str) -> Check:
    """A camera of one format is read until it is unplugged; raises GateError where frames are missing."""
    camera = cameras.camera(folder, library, form)
    camera.plug(FRAMES)
    seen = camera.read()
    if seen.lost or len(seen.shots) < FRAMES - 1:  # OpenCV leaves out the first
        raise GateError(f"{form}: got {len(seen.shots)} frames of {FRAMES}, expected all; look at the driver's buffers")
    size = f"{cameras.WIDTH}x{cameras.HEIGHT} at {cameras.RATE} frames a second"
    return Check(f"an imitated V4L2 camera, {form} of {size}", f"{len(seen.shots)} frames in a row, none lost")


if __name__ == "__main__":
    main()
