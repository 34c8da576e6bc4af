"""A video file: every frame, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2

from aselect_edge.errors import InputError
from aselect_runtime.results import Captured, SourceInfo

COMPLETE = 0.9
"""A file that ends before this share of its promised frames is truncated; containers' counts are estimates."""


class Video:
    """Decodes with FFmpeg inside OpenCV; raises InputError on entering if nothing can be decoded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.info = SourceInfo(str(path), fps=25.0)

    def __enter__(self) -> Video:
        try:
            size = self._path.stat().st_size
            with self._path.open("rb"):
                pass
        except OSError as error:
            raise InputError(
                f"{self._path}: unreadable ({error.strerror}), expected a video; check the path"
            ) from error
        self._capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise InputError(
                f"{self._path}: got {size} bytes that do not open, expected a video; it may be truncated, copy it again"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.info = SourceInfo(str(self._path), fps=fps if 0 < fps <= 1000 else 25.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Captured]:
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        index = 0
        while True:
            found, frame = self._capture.read()
            if not found:
                break
            yield Captured(frame, index, f"{self._path.stem}-{index:06d}", self.info)  # type: ignore[arg-type]
            index += 1
        if index == 0 or index < COMPLETE * promised:
            raise InputError(
                f"{self._path}: got {index} frames, expected {max(1, round(promised))}; the video is truncated or "
                "corrupt, copy it again"
            )
