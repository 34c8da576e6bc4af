"""A video file: every frame, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.results import Captured, SourceInfo
from aselect_runtime.sources.opencv import frames, rate

COMPLETE = 0.9
"""A file that ends before this share of its promised frames is truncated; containers' counts are estimates."""
FPS = 25.0
"""Of a video that does not say."""
COPY = "the video is truncated or corrupt, copy it again"


class Video:
    """Delivers every frame of what `connect` opens, and then ends; raises InputError if that is too early."""

    def __init__(self, name: str, stem: str, connect: Callable[[], cv2.VideoCapture], advice: str = COPY) -> None:
        self.info = SourceInfo(name, FPS)
        self._stem = stem
        self._connect = connect
        self._advice = advice

    def __enter__(self) -> Video:
        self._capture = self._connect()
        self.info = replace(self.info, fps=rate(self._capture, FPS))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Captured]:
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        count = 0
        for frame in frames(self._capture):
            yield Captured(frame, count, f"{self._stem}-{count:06d}", self.info)
            count += 1
        if count == 0 or count < COMPLETE * promised:
            raise InputError(
                f"{self.info.name}: got {count} frames, expected {max(1, round(promised))}; {self._advice}"
            )


class VideoFile(Video):
    """Decodes with FFmpeg inside OpenCV; raises InputError on entering if nothing can be decoded."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), path.stem, lambda: _connect(path))


def _connect(path: Path) -> cv2.VideoCapture:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror}), expected a video; check the path") from error
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise InputError(
            f"{path}: got {size} bytes that do not open, expected a video; it may be truncated, copy it again"
        )
    return capture
