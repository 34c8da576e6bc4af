"""Cameras and videos on the network (rtsp://, http:// and others, encrypted or not), through OpenCV's FFmpeg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2

from aselect_runtime.addresses import split_address
from aselect_runtime.errors import InputError
from aselect_runtime.media import is_video
from aselect_runtime.redaction import redact
from aselect_runtime.results import SourceInfo
from aselect_runtime.sources.addresses import quoted, why_not
from aselect_runtime.sources.mjpeg import MjpegCapture, open_mjpeg
from aselect_runtime.sources.opencv import FPS, LiveCapture, open_ffmpeg
from aselect_runtime.sources.source import Source
from aselect_runtime.sources.tls import SCHEMES, Trust, check_certificate, ffmpeg_options, split_trust
from aselect_runtime.sources.video import Video

OPEN_TIMEOUT = 10.0
READ_TIMEOUT = 10.0
"""Seconds that FFmpeg waits for the server."""
LISTENING = frozenset({"udp", "rtp", "srt", "tcp"})
"""Schemes that need no host."""


def network(uri: str) -> Source:
    """A video if the path has a video's suffix (http://host/video.mp4: every frame is delivered), else a live stream.

    Raises InputError for an address without a host. For encrypted addresses the part after `#` sets the trusted
    certificates, see `split_trust`.
    """
    uri, trust = split_trust(quoted(uri), redact(uri))
    name = redact(uri)
    split = split_address(uri, "rtsp://host:554/stream")
    parts, port = split.parts, split.port
    scheme, host, path = parts.scheme.lower(), parts.hostname, parts.path
    if not host and not (scheme in LISTENING and port):  # udp://@:5000 is a port of this machine
        raise InputError(f"{name}: got no host, expected for example rtsp://host:554/stream")
    # Labels and file names are made from it: a path that contains options may contain a password.
    host = host or scheme
    stem = host if "=" in path or "***" in name.partition("@")[2] or ":" in path else PurePosixPath(path).stem or host
    endpoint = _Endpoint(uri, name, host, port or SCHEMES.get(scheme, 0), trust if scheme in SCHEMES else None)
    if scheme.startswith("http") and is_video(PurePosixPath(path)):
        return Video(name, stem, endpoint.connect)
    info = SourceInfo(name, FPS, live=True)
    return LiveCapture(info, stem, endpoint.connect_live, "check the camera and the network")


@dataclass(frozen=True)
class _Endpoint:
    """An address, and the trust settings for its certificate; None if the scheme is not encrypted."""

    uri: str
    name: str
    host: str
    port: int
    trust: Trust | None

    def connect_live(self) -> cv2.VideoCapture | MjpegCapture:
        """Open a stream; JPEG images over HTTP are not read by FFmpeg, which does not limit their size."""
        if self.uri.lower().startswith("http"):
            if self.trust is not None:
                check_certificate(self.host, self.port, self.trust, self.name, OPEN_TIMEOUT)
            capture = open_mjpeg(self.uri, self.name, self.trust, OPEN_TIMEOUT)
            if capture is not None:
                return capture
        return self.connect(threads=1)

    def connect(self, threads: int = 0) -> cv2.VideoCapture:
        """Open with FFmpeg. Each additional decoding thread delays frames by one: use one thread for a live stream."""
        if self.trust is not None:
            check_certificate(self.host, self.port, self.trust, self.name, OPEN_TIMEOUT)
        trust = self.trust or Trust()
        thread_count = getattr(cv2, "CAP_PROP_N_THREADS", None)  # not in OpenCV before 4.7
        with ffmpeg_options(trust):
            capture = open_ffmpeg(
                self.uri,
                [
                    *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(OPEN_TIMEOUT * 1000)),
                    *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(READ_TIMEOUT * 1000)),
                    *((thread_count, threads) if threads and thread_count is not None else ()),
                ],
            )
        if not capture.isOpened():
            raise InputError(f"{self.name}: {why_not(self.uri, trust)}")
        return capture
