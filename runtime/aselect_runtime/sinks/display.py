"""A window on the screen of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from aselect_runtime.drawing import Painter
from aselect_runtime.errors import InputError, MissingDependencyError
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import SinkClosed, Write

QUIT = frozenset({27, ord("q")})
"""Escape, or q."""
TRIAL = "import cv2; cv2.namedWindow('aselect'); cv2.waitKey(1)"
TIMEOUT = 20.0
"""Seconds for the trial: a remote screen that does not answer in this time cannot be used."""


@contextmanager
def display(uri: str, manifest: Manifest) -> Iterator[Write]:  # noqa: ARG001 - one form for all sinks
    """Shows the drawn frames, one window per source; q, Escape or closing a window ends it.

    Raises MissingDependencyError if this OpenCV has no windows, InputError if there is no screen.
    """
    if not cv2.currentUIFramework():
        raise MissingDependencyError(
            "display://: got an OpenCV without windows, expected one with windows; pip install opencv-python instead "
            "of opencv-python-headless, or use the output http://127.0.0.1:8080"
        )
    if not _opens():
        raise InputError(
            "display://: got no screen that shows a window, expected one; set DISPLAY or WAYLAND_DISPLAY, or use the "
            "output http://127.0.0.1:8080",
            parameter="output",
        )
    painter = Painter(manifest)
    shown: set[str] = set()

    def write(result: Result) -> None:
        name = result.captured.source.name
        if name in shown and cv2.getWindowProperty(name, cv2.WND_PROP_VISIBLE) < 1:
            raise SinkClosed
        cv2.imshow(name, result.plot(painter))
        shown.add(name)
        if cv2.waitKey(1) & 0xFF in QUIT:
            raise SinkClosed

    try:
        yield write
    finally:
        cv2.destroyAllWindows()


def _opens() -> bool:
    """Whether a window can be opened; tried in another process, because Qt ends a process that has no screen."""
    try:
        done = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
