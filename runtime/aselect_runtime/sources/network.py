"""Cameras and videos on the network (rtsp://, http:// and others, encrypted or not), through FFmpeg."""

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
    """A video if the path has a video's suffix (http://host/video.mp4: every frame is delivered), else a live stream.

    Raises InputError for an address without a host. For encrypted addresses the part after `#` sets the trusted
    certificates, see `split_trust`.
    """
    endpoint = Endpoint.of(uri)
    name, host, path = endpoint.name, endpoint.host, urlsplit(endpoint.uri).path
    # Labels and file names are made from it: a path that contains options may contain a password.
    stem = host if "=" in path or "***" in name.partition("@")[2] or ":" in path else PurePosixPath(path).stem or host
    if endpoint.uri.lower().startswith("http") and is_video(PurePosixPath(path)):
        return Video(name, stem, endpoint.connect)
    info = SourceInfo(name, FPS, live=True)
    return LiveCapture(info, stem, endpoint.connect_live, "check the camera and the network")


@dataclass(frozen=True)
class Endpoint:
    """An address, and the trust settings for its certificate; None if the scheme is not encrypted."""

    uri: str
    name: str
    host: str
    port: int
    trust: Trust | None

    @classmethod
    def of(cls, uri: str) -> Endpoint:
        """Parse an address as users write it; raises InputError for one without a host."""
        uri, trust = split_trust(uri, redact(uri))
        name = redact(uri)
        split = split_address(uri, "rtsp://host:554/stream")
        scheme, host, port = split.parts.scheme.lower(), split.parts.hostname, split.port
        if not host and not (scheme in LISTENING and port):  # udp://@:5000 is a port of this machine
            raise InputError(f"{name}: got no host, expected for example rtsp://host:554/stream")
        return cls(uri, name, host or scheme, port or SCHEMES.get(scheme, 0), trust if scheme in SCHEMES else None)

    def options(self) -> dict[str, str]:
        """FFmpeg options for a further connection."""
        return stream_options(self.uri, self.trust)

    def connect_live(self) -> Capture:
        """Open a stream; JPEG images over HTTP are read without FFmpeg."""
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
        """Raise InputError unless the server has a valid certificate for the host."""
        if self.trust is not None:
            check_certificate(self.host, self.port, self.trust, self.name, OPEN_TIMEOUT)
