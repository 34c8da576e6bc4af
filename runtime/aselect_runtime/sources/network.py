"""Cameras and videos on the network: rtsp://, http:// and their encrypted kin, through FFmpeg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from aselect_runtime.addresses import split_address
from aselect_runtime.errors import InputError
from aselect_runtime.media import is_video
from aselect_runtime.redaction import redact
from aselect_runtime.results import SourceInfo
from aselect_runtime.sources.mjpeg import open_mjpeg
from aselect_runtime.sources.opencv import FPS, Capture, LiveCapture
from aselect_runtime.sources.source import Source
from aselect_runtime.sources.stream import OPEN_TIMEOUT, open_stream, stream_options
from aselect_runtime.sources.tls import SCHEMES, Trust, check_certificate, split_trust
from aselect_runtime.sources.video import Video

LISTENING = frozenset({"udp", "rtp", "srt", "tcp"})
"""Schemes that need no host."""


def network(uri: str) -> Source:
    """A video where the path ends like one (http://host/video.mp4: every frame is delivered), else a live stream.

    Raises InputError for an address without a host. What stands behind `#` of an encrypted one says whom to trust.
    """
    there = Remote.of(uri)
    name, host, path = there.name, there.host, urlsplit(there.uri).path
    # Labels and file names come of it: a path with options in it may hold a password.
    stem = host if "=" in path or "***" in name.partition("@")[2] or ":" in path else PurePosixPath(path).stem or host
    if there.uri.lower().startswith("http") and is_video(PurePosixPath(path)):
        return Video(name, stem, there.connect)
    info = SourceInfo(name, FPS, live=True)
    return LiveCapture(info, stem, there.connect_live, "check the camera and the network")


@dataclass(frozen=True)
class Remote:
    """An address, and what its certificate is held against where it has one."""

    uri: str
    name: str
    host: str
    port: int
    trust: Trust | None

    @classmethod
    def of(cls, uri: str) -> Remote:
        """Take an address apart as people type it; raises InputError for one without a host."""
        uri, trust = split_trust(uri, redact(uri))
        name = redact(uri)
        split = split_address(uri, "rtsp://host:554/stream")
        scheme, host, port = split.parts.scheme.lower(), split.parts.hostname, split.port
        if not host and not (scheme in LISTENING and port):  # udp://@:5000 is a port of this machine
            raise InputError(f"{name}: got no host, expected for example rtsp://host:554/stream")
        return cls(uri, name, host or scheme, port or SCHEMES.get(scheme, 0), trust if scheme in SCHEMES else None)

    def options(self) -> dict[str, str]:
        """For FFmpeg, where it is to connect another time."""
        return stream_options(self.uri, self.trust)

    def connect_live(self) -> Capture:
        """Open a stream; one of JPEG images over HTTP is read without FFmpeg."""
        if self.uri.lower().startswith("http"):
            self.check()
            capture = open_mjpeg(self.uri, self.name, self.trust, OPEN_TIMEOUT)
            if capture is not None:
                return capture
        return self.connect(live=True)

    def connect(self, *, live: bool = False) -> Capture:
        """Open with FFmpeg."""
        self.check()
        return open_stream(self.uri, self.name, self.trust, live=live)

    def check(self) -> None:
        """Raise InputError unless whoever answers there proves to be that host."""
        if self.trust is not None:
            check_certificate(self.host, self.port, self.trust, self.name, OPEN_TIMEOUT)
