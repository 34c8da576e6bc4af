"""Shared by all sources that OpenCV reads: opening, reading into reused buffers, and detecting the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import local
from types import TracebackType
from typing import Any, Protocol, cast

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.media import library_path
from aselect_runtime.results import Captured, SourceInfo
from aselect_runtime.rings import FrameRing
from aselect_runtime.sources.deferred import Arrived, Make

BUFFERS = 12
"""More frames than a run holds at the same time, waiting for the session and for the sinks."""
FPS = 30.0
"""Frame rate of a camera that reports none."""
ATTEMPTS = "OPENCV_FFMPEG_READ_ATTEMPTS", str(1 << 24)
"""OpenCV treats a video as ended after this many packets in a row that are not of its video stream. Its default of 4096
is one and a half minutes of audio, and a video may have no new image for longer."""


class Capture(Protocol):
    """The methods of cv2.VideoCapture that are used."""

    def read(self, image: Any = None, /) -> tuple[bool, Any]: ...

    def get(self, propId: int, /) -> float: ...  # noqa: N803 - OpenCV's name

    def release(self) -> None: ...


class DeferredCapture(Protocol):
    """A capture whose frames can be taken before they are made."""

    def next(self) -> Make | None:
        """The next frame; None where there are no more."""

    def get(self, propId: int, /) -> float: ...  # noqa: N803 - OpenCV's name

    def release(self) -> None: ...


class LiveCapture:
    """A camera or stream. `connect` opens it or raises InputError; `advice` is the end of its error messages."""

    def __init__(
        self, info: SourceInfo, stem: str, connect: Callable[[], Capture | DeferredCapture], advice: str
    ) -> None:
        self.info = info
        self._stem = stem
        self._connect = connect
        self._advice = advice
        self._own = local()
        """The capture of each thread: one whose read hangs leaves its own, while another has opened the next."""

    def __enter__(self) -> LiveCapture:
        try:
            self._own.capture = self._connect()
        except cv2.error as error:
            raise InputError(f"{self.info.name}: OpenCV failed on it, expected a stream; {self._advice}") from error
        self.info = replace(self.info, fps=rate(self._own.capture, FPS))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own.capture.release()

    def __iter__(self) -> Iterator[Captured]:
        for arrived in self.arrivals():
            if (captured := arrived.captured()) is not None:
                yield captured

    def arrivals(self) -> Iterator[Arrived]:
        """The frames as they come, made only when `captured` is called."""
        index = -1
        for index, make in enumerate(made(self._own.capture)):
            yield Arrived(make, index, f"{self._stem}-{index:06d}", self.info)
        raise InputError(f"{self.info.name}: got no frame {index + 1}, expected a stream; {self._advice}")


def open_ffmpeg(uri: str, parameters: Sequence[int] = ()) -> cv2.VideoCapture:
    """A capture with OpenCV's FFmpeg; check `isOpened`."""
    os.environ.setdefault(*ATTEMPTS)
    return cv2.VideoCapture(uri, cv2.CAP_FFMPEG, list(parameters))


def open_file(path: Path) -> cv2.VideoCapture:
    """A capture of a file with any name; check `isOpened`."""
    with library_path(path) as name:
        return open_ffmpeg(name)


def made(capture: Capture | DeferredCapture, tries: int = 1) -> Iterator[Make]:
    """What makes each of the frames of an open capture, until it has no more or fails; `tries` as for `frames`."""
    take = getattr(capture, "next", None)
    if take is not None:
        while (make := take()) is not None:
            yield make
        return
    for frame in frames(cast("Capture", capture), tries):
        yield partial(_itself, frame)


def _itself(frame: Frame) -> Frame:
    return frame


def frames(capture: Capture, tries: int = 1) -> Iterator[Frame]:
    """The frames of an open capture, BGR, until it ends or fails; a frame does not change while it is referenced.

    With several `tries` a read without a frame is repeated, because OpenCV reads ATTEMPTS only once in a process,
    perhaps before it was set; at the real end of a video this takes no time.
    """
    left = tries
    ring = FrameRing(BUFFERS)
    shape: tuple[int, ...] | None = None
    while True:
        try:
            found, frame = capture.read(None if shape is None else ring.take(shape))
        except cv2.error:  # a frame that is too damaged to be converted
            return
        if not found or frame is None or not frame.size:
            left -= 1
            if left:
                continue
            return
        left = tries
        shape = frame.shape
        if frame.ndim == 2 or frame.shape[2] == 1:
            yield cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
        else:
            yield frame


def rate(capture: Capture | DeferredCapture, otherwise: float) -> float:
    """Nominal frames per second, or `otherwise` if the container or driver reports an impossible value."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= 1000 else otherwise
