"""Frames for calibration: from a folder, a split root, a video, or a recording made on the device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
from aselect_runtime.records import DataFingerprint, Resize, Task
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
    """Returns a new iterator of (name, frame in its own size) at each call."""
    fit: Callable[[Frame], Frame]
    """A frame at model size."""
    note: str = ""
    """Says that there are fewer frames than requested; otherwise empty."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Frame]:
        """Raises InputError for an image of a single colour, which would bias every range towards zero."""
        for name, frame in self.read():
            fitted = self.fit(frame)
            if _is_plain(frame, fitted):
                raise InputError(
                    f"{name}: got an image of a single colour, expected varied content; remove it from the "
                    f"calibration data"
                )
            yield fitted


def calibration_frames(
    data: Path, count: int, size: tuple[int, int], how: Resize, batch: int = 1, task: Task = "seg"
) -> CalibrationFrames:
    """`count` frames of `size` (height, width), rounded up to whole batches, spread evenly over `data`.

    `data` is a folder of images (a recording is one), labelled data of `task`, of which only images of `train` are used
    and not those held out of it, or a video, whose near-duplicates and frames of a single colour are dropped first. If
    it holds fewer frames, all whole batches of them are used and the `note` says so; raises InputError for fewer than
    FEWEST, or than `count` if that is less.
    """
    if count < 1:
        raise InputError(f"got {count} calibration frames, expected at least 1; increase it", parameter="calib_images")
    if data.is_file():
        _check_video(data)
        return _of_video(data, count, size, how, batch)
    images = images_of(data, task=task)
    chosen, note = _spread(images, count, batch, f"{data}: got {len(images)} images")
    digest = hashlib.sha256(_seen(size, how))
    for path in chosen:
        digest.update(os.fsencode(f"{path.name}\0{sha256(path)}\0"))

    def read() -> Iterator[tuple[str, Frame]]:
        for path in chosen:
            yield str(path), read_image(path)

    fingerprint = DataFingerprint(images=len(chosen), sha256=digest.hexdigest())
    return CalibrationFrames(len(chosen), fingerprint, read, partial(resize, size=size, how=how), note)


def video_frames(video: Path, most: int, size: tuple[int, int], how: Resize) -> list[Frame]:
    """At most so many frames of `size` (height, width), spread over those of a video that differ.

    Raises InputError for another file, or if every frame has a single colour.
    """
    _check_video(video)
    distinct = _distinct(video, size, how)
    if not distinct:
        raise InputError(f"{video}: got only frames of a single colour, expected varied content; give another video")
    chosen = [distinct[index] for index in evenly(len(distinct), min(most, len(distinct)))]
    return [resize(frame, size, how) for _, frame in _read_video(video, chosen)]


def _check_video(path: Path) -> None:
    if not is_video(path):
        raise InputError(
            f"{path}: got a file, expected a folder of images or a video ({', '.join(sorted(VIDEO_SUFFIXES))})"
        )


def _seen(size: tuple[int, int], how: Resize) -> bytes:
    """The preprocessing as bytes: the same images have other ranges if stretched than if padded."""
    return f"{size}\0{how.model_dump_json()}\0".encode()


def _of_video(video: Path, count: int, size: tuple[int, int], how: Resize, batch: int) -> CalibrationFrames:
    distinct = _distinct(video, size, how)
    chosen, note = _spread(distinct, count, batch, f"{video}: got {len(distinct)} frames that differ")
    digest = hashlib.sha256(_seen(size, how) + f"{sha256(video)}\0{chosen}".encode())

    def read() -> Iterator[tuple[str, Frame]]:
        for index, frame in _read_video(video, chosen):
            yield f"{video}, frame {index}", frame

    fingerprint = DataFingerprint(images=len(chosen), sha256=digest.hexdigest())
    return CalibrationFrames(len(chosen), fingerprint, read, partial(resize, size=size, how=how), note)


def _read_video(video: Path, chosen: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """The frames with these indices."""
    wanted = frozenset(chosen)
    with VideoFile(video) as source:
        for captured in source:
            if captured.index in wanted:
                yield captured.index, captured.frame


def _distinct(video: Path, size: tuple[int, int], how: Resize) -> list[int]:
    """Indices of the frames of a video that differ from the last kept frame and have more than one colour.

    Videos often begin or end in black, and nobody can remove a frame of theirs.
    """
    kept: list[int] = []
    last: NDArray[np.float32] | None = None
    with VideoFile(video) as source:
        for captured in source:
            small = cv2.resize(captured.frame, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)
            grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
            differs = last is None or float(np.abs(grey - last).mean()) >= SAME
            if differs and not _is_plain(captured.frame, resize(captured.frame, size, how)):
                kept.append(captured.index)
                last = grey
    return kept


def _is_plain(frame: Frame, fitted: Frame) -> bool:
    """Whether a frame has a single colour, as it is or at model size; the borders of a letterbox are no content."""
    return any(bool((each == each[0, 0]).all()) for each in (frame, fitted))


def _spread(there: Sequence[T], count: int, batch: int, found: str) -> tuple[list[T], str]:
    """As many of these as asked for, or as there are whole batches of, evenly, and a note where that is fewer."""
    wanted = -(-count // batch) * batch
    least = -(-min(count, FEWEST) // batch) * batch
    if len(there) < least:
        enough = f"{count}" if count <= FEWEST else f"{count}, or at least {least}"
        whole = len(there) // batch * batch
        if whole or not there:
            advice = f"add more or calibrate on {whole}" if whole else "add some"
            raise InputError(f"{found}, expected {enough}; {advice}", parameter=("data", "calib_images"))
        raise InputError(
            f"{found}, expected {enough}, whole batches of {batch}; add more or take a smaller batch",
            parameter=("data", "batch"),
        )
    taken = min(wanted, len(there) // batch * batch)
    note = f"{found}, {count} requested; calibrated on {taken}" if taken < wanted else ""
    return [there[index] for index in evenly(len(there), taken)], note
