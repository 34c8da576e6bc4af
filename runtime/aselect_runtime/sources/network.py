"""Cameras and videos on the network: rtsp://, http:// and their encrypted kin, through the FFmpeg inside OpenCV."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.media import is_video
from aselect_runtime.redaction import redact
from aselect_runtime.results import SourceInfo
from aselect_runtime.sources.addresses import quoted, why_not
from aselect_runtime.sources.opencv import FPS, LiveCapture, open_ffmpeg
from aselect_runtime.sources.source import Source
from aselect_runtime.sources.video import Video

OPEN_TIMEOUT = 10.0
READ_TIMEOUT = 10.0
LISTENING = frozenset({"udp", "rtp", "srt", "tcp"})
"""Seconds that FFmpeg may wait for the other side."""


def network(uri: str) -> Source:
    """A video where the path ends like one (http://host/video.mp4: every frame is delivered), else a live stream.

    Raises InputError for an address without a host.
    """
    name, uri = redact(uri), quoted(uri)
    try:
        parts = urlsplit(uri)
        host, path, _ = parts.hostname, parts.path, parts.port
    except ValueError:
        # Its message would quote the address with the password, which "from None" keeps out of tracebacks.
        raise InputError(f"{name}: got a malformed address, expected for example rtsp://host:554/stream") from None
    listens = parts.scheme.lower() in LISTENING  # udp://@:5000 is a port of this machine
    if not host and not (listens and parts.port):
        raise InputError(f"{name}: got no host, expected for example rtsp://host:554/stream")
    # Labels and file names come of it: a path with options in it may hold a password.
    host = host or parts.scheme
    stem = host if "=" in path else PurePosixPath(path).stem or host
    if parts.scheme.lower().startswith("http") and is_video(PurePosixPath(path)):
        return Video(name, stem, lambda: _connect(uri, name))
    info = SourceInfo(name, FPS, live=True)
    return LiveCapture(info, stem, lambda: _connect(uri, name, threads=1), "check the camera and the network")


def _connect(uri: str, name: str, threads: int = 0) -> cv2.VideoCapture:
    """Open with FFmpeg. Decoding in several threads delays each frame by as many, so a live stream is given one."""
    # RTSP over TCP: lost UDP packets would smear the image. The user's own options go before ours.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    thread_count = getattr(cv2, "CAP_PROP_N_THREADS", None)  # OpenCV before 4.7 does not know it
    capture = open_ffmpeg(
        uri,
        [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(OPEN_TIMEOUT * 1000)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(READ_TIMEOUT * 1000)),
            *((thread_count, threads) if threads and thread_count is not None else ()),
        ],
    )
    if not capture.isOpened():
        raise InputError(f"{name}: {why_not(uri)}")
    return capture
