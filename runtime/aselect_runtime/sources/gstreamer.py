"""csi://N, a Jetson's camera connector, and any GStreamer pipeline as a string."""

from __future__ import annotations

import re

import cv2

from aselect_runtime.errors import InputError, MissingDependencyError
from aselect_runtime.redaction import redact
from aselect_runtime.results import SourceInfo
from aselect_runtime.sources.opencv import FPS, LiveCapture

SINK = "appsink drop=true max-buffers=1 sync=false"
"""Passes only the newest frame to OpenCV, without waiting for its presentation time."""
CSI = (
    "nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 ! "
    "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
)


def gstreamer(uri: str) -> LiveCapture:
    """A live source; raises InputError for a bad csi:// address, MissingDependencyError if OpenCV has no GStreamer."""
    name = redact(uri)
    match = re.fullmatch(r"csi://(\d{1,2})", uri)
    if uri.startswith("csi://") and not match:
        raise InputError(f"{name}: got no connector number, expected csi://0 or csi://1")
    if not has_gstreamer():
        raise MissingDependencyError(
            f"{name}: got an OpenCV without GStreamer, expected one with it; on a Jetson use JetPack's OpenCV (a "
            "virtual environment with --system-site-packages and without an opencv wheel), elsewhere Debian's "
            "python3-opencv, or give an rtsp:// address or /dev/videoN instead"
        )
    pipeline = pipeline_of(uri if match is None else CSI.format(number=match[1]))
    stem = f"csi{match[1]}" if match else "gstreamer"

    def connect() -> cv2.VideoCapture:
        capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            raise InputError(f"{name}: got no stream, expected a running pipeline; try it with gst-launch-1.0")
        return capture

    return LiveCapture(SourceInfo(name, FPS, live=True), stem, connect, "check the camera")


def pipeline_of(text: str) -> str:
    """The pipeline with the appsink that OpenCV reads from; a pipeline that ends with an appsink is unchanged."""
    last = text.rsplit(" ! ", 1)[-1]
    return text if last.split()[0] == "appsink" else f"{text} ! {SINK}"


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None
