"""A V4L2 camera, /dev/videoN."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2

from aselect_edge.errors import InputError
from aselect_runtime.results import Captured, SourceInfo


class Camera:
    """Live: the pipeline's capture thread grabs without pause and keeps only the newest frame."""

    def __init__(self, device: Path) -> None:
        self._device = device
        self.info = SourceInfo(str(device), fps=30.0, live=True)

    def __enter__(self) -> Camera:
        if not self._device.exists():
            found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
            raise InputError(f"{self._device}: no such camera, expected one of those here ({found}); plug it in")
        if not os.access(self._device, os.R_OK | os.W_OK):
            raise InputError(f"{self._device}: no permission, expected read and write; join the group `video`")
        self._capture = cv2.VideoCapture(str(self._device), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise InputError(f"{self._device}: got no stream, expected a free V4L2 camera; close what else uses it")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.info = SourceInfo(str(self._device), fps=fps if 0 < fps <= 1000 else 30.0, live=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Captured]:
        index = 0
        while True:
            found, frame = self._capture.read()
            if not found:
                raise InputError(f"{self._device}: got no frame {index}, expected a stream; check the cable")
            yield Captured(frame, index, f"{self._device.name}-{index:06d}", self.info)  # type: ignore[arg-type]
            index += 1
