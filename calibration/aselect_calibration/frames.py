"""Frames for calibration: from a folder, a split root, a video, or a recording made on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_edge.data import images_of
from aselect_runtime.errors import InputError
from aselect_runtime.files import sha256
from aselect_runtime.frames import Frame, read_image, resize
from aselect_runtime.media import VIDEO_SUFFIXES, is_video
from aselect_runtime.records import DataFingerprint, Resize
from aselect_runtime.sources.video_file import VideoFile

THUMBNAIL = (12, 16)
"""Height and width of the grey thumbnails by which frames of a video are compared."""

SAME = 2.0
"""Frames whose thumbnails differ by less than this many grey levels on average are near-duplicates."""


@dataclass(frozen=True)
class CalibrationFrames:
    """A fixed number of frames uint8 [H, W, 3] at model size; each iteration reads them again, none is stored."""

    count: int
    fingerprint: DataFingerprint
    read: Callable[[], Iterator[tuple[str, Frame]]]
    """Returns a new iterator of (name, frame) at each call."""

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


def calibration_frames(data: Path, count: int, size: tuple[int, int], how: Resize) -> CalibrationFrames:
    """`count` frames of `size` (height, width), spread evenly over `data`.

    `data` is a folder of images (a recording is one), labelled data, of which only images of `train` are used and not
    those held out of it, or a video, whose near-duplicates are dropped first. Raises InputError if it holds fewer
    frames: the set is never shortened silently.
    """
    if count < 1:
        raise InputError(f"got {count} calibration frames, expected at least 1; increase it", parameter="calib_images")
    if data.is_file() and is_video(data):
        return _of_video(data, count, size, how)
    if data.is_file():
        raise InputError(
            f"{data}: got a file, expected a folder of images or a video ({', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    images = images_of(data)
    chosen = [images[index] for index in _spread(len(images), count, f"{data}: got {len(images)} images")]
    digest = hashlib.sha256(_seen(size, how))
    for path in chosen:
        digest.update(f"{path.name}\0{sha256(path)}\0".encode())

    def read() -> Iterator[tuple[str, Frame]]:
        for path in chosen:
            yield str(path), resize(read_image(path), size, how)

    return CalibrationFrames(count, DataFingerprint(images=count, sha256=digest.hexdigest()), read)


def _seen(size: tuple[int, int], how: Resize) -> bytes:
    """The preprocessing as bytes: the same images have other ranges if stretched than if padded."""
    return f"{size}\0{how.model_dump_json()}\0".encode()


def _of_video(video: Path, count: int, size: tuple[int, int], how: Resize) -> CalibrationFrames:
    distinct = _distinct(video)
    found = f"{video}: got {len(distinct)} frames that differ"
    chosen = [distinct[index] for index in _spread(len(distinct), count, found)]
    digest = hashlib.sha256(_seen(size, how) + f"{sha256(video)}\0{chosen}".encode())

    def read() -> Iterator[tuple[str, Frame]]:
        wanted = frozenset(chosen)
        with VideoFile(video) as source:
            for captured in source:
                if captured.index in wanted:
                    yield f"{video}, frame {captured.index}", resize(captured.frame, size, how)

    return CalibrationFrames(count, DataFingerprint(images=count, sha256=digest.hexdigest()), read)


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


def _spread(available: int, count: int, found: str) -> list[int]:
    if available < count:
        raise InputError(
            f"{found}, expected {count}; add more or calibrate on {available}", parameter=("data", "calib_images")
        )
    return [index * available // count for index in range(count)]
