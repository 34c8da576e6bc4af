"""A V4L2 camera: /dev/videoN, or another device name from udev."""

from __future__ import annotations

import os
from pathlib import Path

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.results import SourceInfo
from aselect_runtime.sources.opencv import FPS, LiveCapture

BUFFERS = 2
"""Of the driver: one is filled while the other is read. With one alone, every second frame finds none and is lost; more
would hold older frames."""


class Camera(LiveCapture):
    """Reads the device with OpenCV's V4L2 backend."""

    def __init__(self, device: Path) -> None:
        info = SourceInfo(str(device), FPS, live=True)
        super().__init__(info, device.name, lambda: _connect(device), "check the cable")


def _connect(device: Path) -> cv2.VideoCapture:
    if not device.exists():
        found = ", ".join(sorted(map(str, [*Path("/dev").glob("video*"), *Path("/dev/v4l").glob("by-*/*")]))) or "none"
        raise InputError(f"{device}: no such camera, expected one of those present ({found}); plug it in")
    if not os.access(device, os.R_OK | os.W_OK):
        raise InputError(f"{device}: no permission, expected read and write access; join the group `video`")
    capture = cv2.VideoCapture(str(device.resolve()), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise InputError(
            f"{device}: got no stream, expected a free V4L2 camera; close other programs that use it, or name the "
            "camera's other /dev/video (one has only metadata)"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, BUFFERS)
    return capture
