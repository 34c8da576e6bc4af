"""Cameras and videos on the network (rtsp://, http:// and others, encrypted or not), through FFmpeg."""

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
from aselect_runtime.sources.decoding import Decoding
from aselect_runtime.sources.hardware import Place, by_hardware, name_of
from aselect_runtime.sources.mjpeg import open_mjpeg
from aselect_runtime.sources.opencv import FPS, Capture, DeferredCapture, LiveCapture, open_ffmpeg
from aselect_runtime.sources.source import Source
from aselect_runtime.sources.tls import SCHEMES, Trust, check_certificate, ffmpeg_options, option_table, split_trust
from aselect_runtime.sources.video import Video

OPEN_TIMEOUT = 10.0
READ_TIMEOUT = 10.0
"""Seconds that FFmpeg waits for the server."""
LISTENING = frozenset({"udp", "rtp", "srt", "tcp"})
"""Schemes that need no host."""


def network(uri: str, decoding: Decoding) -> Source:
    """A video if the path has a video's suffix (http://host/video.mp4: every frame is delivered), else a live stream.

    Live streams are read with PyAV if it is installed: a frame that is replaced by a newer one is never converted.
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
    endpoint = _Endpoint(
        uri, name, host, port or SCHEMES.get(scheme, 0), trust if scheme in SCHEMES else None, decoding
    )
    if scheme.startswith("http") and is_video(PurePosixPath(path)):
        return Video(name, stem, endpoint.connect_video)
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
    decoding: Decoding

    def connect_live(self) -> Capture | DeferredCapture:
        """Open a stream; JPEG images over HTTP are not read by FFmpeg, which does not limit their size."""
        self._check()
        if self.uri.lower().startswith("http"):
            images = open_mjpeg(self.uri, self.name, self.trust, OPEN_TIMEOUT)
            if images is not None:
                return images
        place = self._place(live=True)
        if (capture := by_hardware(place, self.decoding)) is not None:
            return capture
        try:
            from aselect_runtime.sources.av_capture import AvCapture
        except ImportError:
            return self._with_opencv(threads=1)
        software = AvCapture(place.uri, place.name, place.options, place.timeouts, threads=1)
        self.decoding.say_processor(name_of(software.codec), self.name)
        return software

    def connect_video(self) -> Capture:
        """Open a video of which every frame is wanted."""
        self._check()
        return by_hardware(self._place(live=False), self.decoding) or self._with_opencv()

    def _place(self, *, live: bool) -> Place:
        options = option_table(self.trust or Trust())
        return Place(self.uri, self.name, options, (OPEN_TIMEOUT, READ_TIMEOUT), live)

    def _check(self) -> None:
        if self.trust is not None:
            check_certificate(self.host, self.port, self.trust, self.name, OPEN_TIMEOUT)

    def _with_opencv(self, threads: int = 0) -> cv2.VideoCapture:
        """Open with FFmpeg. Decoding in several threads delays each frame by as many: a live stream is given one."""
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
