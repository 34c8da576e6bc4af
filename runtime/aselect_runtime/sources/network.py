"""Cameras and videos on the network (rtsp://, http:// and others, encrypted or not), through FFmpeg."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import cv2

from aselect_runtime.addresses import split_address
from aselect_runtime.errors import InputError
from aselect_runtime.media import is_video
from aselect_runtime.redaction import redact
from aselect_runtime.results import SourceInfo
from aselect_runtime.sources.addresses import ENCRYPTED, quoted
from aselect_runtime.sources.decoding import Decoding
from aselect_runtime.sources.faults import OPEN_TIMEOUT, because
from aselect_runtime.sources.hardware import Place, by_hardware, name_of
from aselect_runtime.sources.image_size import check_size
from aselect_runtime.sources.mjpeg import open_mjpeg
from aselect_runtime.sources.opencv import FPS, Capture, DeferredCapture, LiveCapture, open_ffmpeg
from aselect_runtime.sources.source import Source
from aselect_runtime.sources.tls import Trust, check_certificate, ffmpeg_options, option_table, split_trust
from aselect_runtime.sources.unmeasured import Unmeasured, open_unmeasured
from aselect_runtime.sources.video import Video

if TYPE_CHECKING:
    from aselect_runtime.sources.av_capture import AvCapture

READ_TIMEOUT = 10.0
"""Seconds that FFmpeg waits for the server."""
INDEXED = frozenset({".mp4", ".mov", ".m4v", ".3gp"})
"""Suffixes of videos that cannot be decoded without their index, which may be at the end."""
NO_LENGTH = "its server states no length, and only the processor reads such a video"
LISTENING = frozenset({"udp", "rtp", "srt", "tcp"})
"""Schemes that need no host."""


def network(uri: str, decoding: Decoding) -> Source:
    """A video if the path has a video's suffix (http://host/video.mp4: every frame is delivered), else a live stream.

    Streams are read with PyAV if it is installed, which limits the size of images and never converts a frame that is
    replaced by a newer one.
    Raises InputError for an address without a host. For encrypted addresses the part after `#` sets the trusted
    certificates, see `split_trust`.
    """
    endpoint = Endpoint.of(uri)
    name, host, path = endpoint.name, endpoint.host, urlsplit(endpoint.uri).path
    # Labels and file names are made from it: a path that contains options may contain a password.
    stem = host if "=" in path or "***" in name.partition("@")[2] or ":" in path else PurePosixPath(path).stem or host
    connection = _Connection(endpoint, decoding)
    if endpoint.uri.lower().startswith("http") and is_video(PurePosixPath(path)):
        return Video(name, stem, connection.connect_video, explain=partial(_explain_index, name, path))
    info = SourceInfo(name, FPS, live=True)
    return LiveCapture(info, stem, connection.connect_live, "check the camera and the network")


def _explain_index(name: str, path: str, fault: str) -> None:
    """Raise InputError for a video without a frame whose index may be at its end, where few servers let it be read."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in INDEXED:
        raise InputError(
            f"{name}: got {fault or 'no decodable frame'}, expected a video that can be read from its beginning; copy "
            f"it, or move the index of the {suffix} to its beginning (ffmpeg -i IN -c copy -movflags +faststart OUT)"
        )


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
        uri, trust = split_trust(quoted(uri), redact(uri))
        name = redact(uri)
        split = split_address(uri, "rtsp://host:554/stream")
        scheme, host, port = split.parts.scheme.lower(), split.parts.hostname, split.port
        if not host and not (scheme in LISTENING and port):  # udp://@:5000 is a port of this machine
            raise InputError(f"{name}: got no host, expected for example rtsp://host:554/stream")
        return cls(uri, name, host or scheme, port or ENCRYPTED.get(scheme, 0), trust if scheme in ENCRYPTED else None)

    def options(self) -> dict[str, str]:
        """FFmpeg's options, also for a further connection."""
        return option_table(self.trust or Trust())

    def check(self) -> None:
        """Raise InputError unless the server has a valid certificate for the host."""
        if self.trust is not None:
            check_certificate(self.host, self.port, self.trust, self.name, OPEN_TIMEOUT)


@dataclass(frozen=True)
class _Connection:
    """An endpoint, and the decoders that its run asked for."""

    endpoint: Endpoint
    decoding: Decoding

    def connect_live(self) -> Capture | DeferredCapture:
        """Open a stream; JPEG images over HTTP are read without FFmpeg."""
        self.endpoint.check()
        if self.endpoint.uri.lower().startswith("http"):
            images = open_mjpeg(self.endpoint.uri, self.endpoint.name, self.endpoint.trust, OPEN_TIMEOUT)
            if images is not None:
                return images
        place = self._place(live=True)
        return by_hardware(place, self.decoding) or self._by_software(place, threads=1)

    def connect_video(self) -> Capture | DeferredCapture:
        """Open a video of which every frame is wanted."""
        endpoint = self.endpoint
        endpoint.check()
        place = self._place(live=False)
        body = open_unmeasured(endpoint.uri, endpoint.name, endpoint.trust)
        if body is None:
            return by_hardware(place, self.decoding) or self._by_software(place)
        self.decoding.require(endpoint.name, NO_LENGTH)
        return self._by_software(place, body=body)

    def _place(self, *, live: bool) -> Place:
        endpoint = self.endpoint
        return Place(endpoint.uri, endpoint.name, endpoint.options(), (OPEN_TIMEOUT, READ_TIMEOUT), live)

    def _by_software(
        self, place: Place, threads: int = 0, body: Unmeasured | None = None
    ) -> AvCapture | cv2.VideoCapture:
        """Decode on the processor. Several threads delay each frame by as many: a live stream is given one."""
        try:
            from aselect_runtime.sources.av_capture import AvCapture
        except ImportError:
            if body is not None:
                body.close()
            return self._with_opencv(threads)
        software = AvCapture(place.uri, place.name, place.options, place.timeouts, threads=threads, body=body)
        self.decoding.say_processor(name_of(software.codec), place.name)
        return software

    def _with_opencv(self, threads: int) -> cv2.VideoCapture:
        """Open with OpenCV's FFmpeg, which allocates what the first images declare."""
        endpoint, trust = self.endpoint, self.endpoint.trust or Trust()
        thread_count = getattr(cv2, "CAP_PROP_N_THREADS", None)  # not in OpenCV before 4.7
        with ffmpeg_options(trust):
            capture = open_ffmpeg(
                endpoint.uri,
                [
                    *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(OPEN_TIMEOUT * 1000)),
                    *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(READ_TIMEOUT * 1000)),
                    *((thread_count, threads) if threads and thread_count is not None else ()),
                ],
            )
        if not capture.isOpened():
            raise InputError(f"{endpoint.name}: {because(endpoint.uri, None)}")
        check_size(endpoint.name, capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        return capture
