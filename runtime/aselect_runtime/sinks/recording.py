"""Recording model inputs for a later INT8 calibration: few images, from all of the run, without near duplicates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime.errors import RecordError
from aselect_runtime.files import atomic_write
from aselect_runtime.frames import read_image
from aselect_runtime.locking import locking_folder
from aselect_runtime.output_folder import FolderKind, check_replaceable
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import Write

LIMIT = 256
"""Maximum number of images. When it is reached, every second image is removed and the interval is doubled."""
INTERVAL = 1.0
"""Initial seconds of the source between two images."""
ALIKE = 2.0
"""Mean difference of two thumbnails, in grey levels, below which the images count as the same."""
THUMBNAIL = (32, 32)
NUMBER = re.compile(r"[0-9]{8,}")
MARKER = "calibration.txt"
NOTE = "Frames as the model saw them, recorded by aselect-run for the calibration of INT8.\n"


def _no_files(path: Path) -> list[str]:
    """No file of a recording is replaced, but the marker must be that of a recording; raises RecordError otherwise."""
    if path.is_file() and path.stat().st_size == len(NOTE) and path.read_text(errors="replace") == NOTE:
        return []
    raise RecordError(f"{path}: got other text, expected that of a recording; choose another folder")


KIND = FolderKind(MARKER, _no_files)


@contextmanager
def recording(folder: Path, limit: int = LIMIT, interval: float = INTERVAL) -> Iterator[Write]:
    """Writes numbered PNGs during the run, each atomically, and never more than `limit`.

    An existing folder must be empty or an older recording, which is continued; raises InputError, and WriteError also
    if another process records there.
    """
    check_replaceable(folder, KIND)
    atomic_write(folder / MARKER, NOTE)
    with locking_folder(folder):
        yield _Kept(folder, limit, interval).consider


class _Kept:
    """The images in the folder."""

    def __init__(self, folder: Path, limit: int, interval: float) -> None:
        self._folder = folder
        self._limit = limit
        self._interval = interval
        # Images with other names are not part of the recording: they are neither counted nor removed.
        self._names = sorted(path for path in folder.glob("*.png") if NUMBER.fullmatch(path.stem))
        self._number = 1 + max((int(path.stem) for path in self._names), default=-1)
        self._thumbnails = [_thumbnail(read_image(path)) for path in self._names]
        self._next: dict[int, tuple[str, float]] = {}
        """For each stream the source of its latest image, and the time on its clock of the next one."""

    def consider(self, result: Result) -> None:
        """Write the model input of a result, if the interval has passed and it differs from all others."""
        name, now = result.captured.source.name, result.captured.seconds
        source, due = self._next.get(result.stream, (name, -np.inf))
        if result.pixels is None or (name == source and now < due):
            return
        self._next[result.stream] = name, now + self._interval
        thumbnail = _thumbnail(result.pixels)
        if any(np.abs(thumbnail - other).mean() < ALIKE for other in self._thumbnails):
            return
        if len(self._names) >= self._limit:
            self._thin_out()
        path = self._folder / f"{self._number:08d}.png"
        atomic_write(path, cv2.imencode(".png", result.pixels)[1].tobytes())
        self._number += 1
        self._names.append(path)
        self._thumbnails.append(thumbnail)

    def _thin_out(self) -> None:
        for path in self._names[1::2]:
            path.unlink(missing_ok=True)
        self._names = self._names[::2]
        self._thumbnails = self._thumbnails[::2]
        self._interval *= 2


def _thumbnail(pixels: Any) -> NDArray[np.int16]:
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    small: NDArray[np.int16] = cv2.resize(grey, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.int16)
    return small
