"""A single image: the overlay of the last frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from aselect_runtime.drawing import Painter
from aselect_runtime.errors import WriteError
from aselect_runtime.files import atomic_file
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import Write


@contextmanager
def image(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Keeps the latest result and paints it once, at the end."""
    latest: list[Result] = []

    def write(result: Result) -> None:
        latest[:] = [result]

    with atomic_file(path) as temporary:
        yield write
        if not latest:
            raise WriteError(f"{path}: got no frame to paint, expected at least one; check the input")
        temporary.write_bytes(cv2.imencode(".png", latest[0].plot(Painter(manifest)))[1].tobytes())
