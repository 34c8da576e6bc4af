"""Overlay images: of the last frame, or of each frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from aselect_runtime.drawing import Painter
from aselect_runtime.errors import WriteError
from aselect_runtime.files import atomic_file, atomic_write, check_place
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sinks.short_labels import LONGEST, shortened
from aselect_runtime.sinks.sink import EACH, Write


@contextmanager
def images(pattern: str, manifest: Manifest) -> Iterator[Write]:
    """Writes the overlay of each frame atomically to the path that results from replacing `{name}` by its label.

    A label that is too long for a file's name is shortened.
    """
    painter = Painter(manifest)
    check_place(Path(pattern.replace(EACH, "name")))
    beside = max(len(os.fsencode(part)) for part in Path(pattern).parts if EACH in part) - len(EACH)
    most = max(10, LONGEST - beside)

    def write(result: Result) -> None:
        path = Path(pattern.replace(EACH, shortened(result.captured.label, most)))
        atomic_write(path, cv2.imencode(path.suffix, result.plot(painter))[1].tobytes())

    yield write


@contextmanager
def image(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Keeps the latest result and draws it once, at the end."""
    latest: list[Result] = []

    def write(result: Result) -> None:
        latest[:] = [result]

    with atomic_file(path) as temporary:
        yield write
        if not latest:
            raise WriteError(f"{path}: got no frame to draw, expected at least one; check the input")
        temporary.write_bytes(cv2.imencode(".png", latest[0].plot(Painter(manifest)))[1].tobytes())
