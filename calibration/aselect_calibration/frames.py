"""Frames for calibration: from a folder, a split root, a video, or a recording made on the device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_edge.data import images_of
from aselect_edge.data.spread import evenly
from aselect_runtime.errors import InputError
from aselect_runtime.files import sha256
from aselect_runtime.frames import Frame, read_image, resize
from aselect_runtime.media import VIDEO_SUFFIXES, is_video
from aselect_runtime.records import DataFingerprint, Resize
from aselect_runtime.sources.video_file import VideoFile

T = TypeVar("T")

THUMBNAIL = (12, 16)
"""Height and width of the grey thumbnails by which frames of a video are compared."""

FEWEST = 16
"""Frames that suffice for calibration if there are fewer than requested."""

SAME = 2.0
"""Frames whose thumbnails differ by less than this many grey levels on average are near-duplicates."""


@dataclass(frozen=True)
class CalibrationFrames:
    """A fixed number of frames uint8 [H, W, 3] at model size; each iteration reads them again, none is stored."""

    count: int
    fingerprint: DataFingerprint
    read: Callable[[], Iterator[tuple[str, Frame]]]
    """Returns a new iterator of (name, frame) at each call."""
    note: str = ""
    """Says that there are fewer frames than requested; otherwise empty."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Frame]:
        """Raises InputError for a frame of a single colour, which would bias every range towards zero."""
        for name, frame in self.read():
            if (frame == frame[0, 0]).all():
                raise InputError(
                    f"{name}: got an image of a single colour, expected varied content; remove it from the "
                    f"calibration data"
                )
            yield frame


def calibration_frames(data: Path, count: int, size: tuple[int, int], how: Resize, batch: int = 1) -> CalibrationFrames:
    """`count` frames of `size` (height, width), rounded up to whole batches, spread evenly over `data`.

    `data` is a folder of images (a recording is one), labelled data, of which only images of `train` are used and not
    those held out of it, or a video, whose near-duplicates are dropped first. If it holds fewer frames, all whole
    batches of them are used and the `note` says so; raises InputError for fewer than FEWEST, or than `count` if that
    is less.
    """
    if count < 1:
        raise InputError(f"got {count} calibration frames, expected at least 1; increase it", parameter="calib_images")
    if data.is_file() and is_video(data):
        return _of_video(data, count, size, how, batch)
    if data.is_file():
        raise InputError(
            f"{data}: got a file, expected a folder of images or a video ({', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    images = images_of(data)
    chosen, note = _spread(images, count, batch, f"{data}: got {len(images)} images")
    digest = hashlib.sha256(_seen(size, how))
    for path in chosen:
        digest.update(os.fsencode(f"{path.name}\0{sha256(path)}\0"))

    def read() -> Iterator[tuple[str, Frame]]:
        for path in chosen:
            yield str(path), resize(read_image(path), size, how)

    return CalibrationFrames(len(chosen), DataFingerprint(images=len(chosen), sha256=digest.hexdigest()), read, note)


def _seen(size: tuple[int, int], how: Resize) -> bytes:
    """The preprocessing as bytes: the same images have other ranges if stretched than if padded."""
    return f"{size}\0{how.model_dump_json()}\0".encode()


def _of_video(video: Path, count: int, size: tuple[int, int], how: Resize, batch: int) -> CalibrationFrames:
    distinct = _distinct(video)
    chosen, note = _spread(distinct, count, batch, f"{video}: got {len(distinct)} frames that differ")
    digest = hashlib.sha256(_seen(size, how) + f"{sha256(video)}\0{chosen}".encode())

    def read() -> Iterator[tuple[str, Frame]]:
        wanted = frozenset(chosen)
        with VideoFile(video) as source:
            for captured in source:
                if captured.index in wanted:
                    yield f"{video}, frame {captured.index}", resize(captured.frame, size, how)

    return CalibrationFrames(len(chosen), DataFingerprint(images=len(chosen), sha256=digest.hexdigest()), read, note)


def _distinct(video: Path) -> list[int]:
    """Indices of the frames of a video that differ from the last kept frame."""
    kept: list[int] = []
    last: NDArray[np.float32] | None = None
    with VideoFile(video) as source:
        for captured in source:
            small = cv2.resize(captured.frame, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)
            grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
            if last is None or float(np.abs(grey - last).mean()) >= SAME:
                kept.append(captured.index)
                last = grey
    return kept


def _spread(there: Sequence[T], count: int, batch: int, found: str) -> tuple[list[T], str]:
    """As many of these as asked for, or as there are whole batches of, evenly, and a note where that is fewer."""
    wanted = -(-count // batch) * batch
    least = -(-min(count, FEWEST) // batch) * batch
    if len(there) < least:
        enough = f"{count}" if count <= FEWEST else f"{count}, or at least {least}"
        advice = f"add more or calibrate on {len(there)}" if there else "add some"
        raise InputError(f"{found}, expected {enough}; {advice}", parameter=("data", "calib_images"))
    taken = min(wanted, len(there) // batch * batch)
    note = f"{found}, {count} requested; calibrated on {taken}" if taken < wanted else ""
    return [there[index] for index in evenly(len(there), taken)], note
