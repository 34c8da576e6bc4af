"""Streams and files through PyAV: frames are converted only when they are taken, and NVDEC may decode them.

`import av` takes a tenth of a second: this module is imported where it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from aselect_runtime.errors import EngineError, InputError
from aselect_runtime.frames import Frame
from aselect_runtime.sources.deferred import Make
from aselect_runtime.sources.faults import because
from aselect_runtime.sources.image_size import LARGEST_IMAGE, check_size, too_large
from aselect_runtime.sources.mjpeg import jpeg_size
from aselect_runtime.sources.unmeasured import Unmeasured

DETECTION = {"codec_whitelist": "none", "analyzeduration": "1000000"}
"""Options while FFmpeg detects what a stream is: without decoders, which would allocate what the stream declares, and
for one second at most, because some values come only from decoders."""
DAMAGED = 1000
"""Packets in a row that do not decode, after which a stream counts as lost."""
UNSEEN = 64
"""Packets from a key frame on within which a decoder must have made a frame; some reorder up to 16."""

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel

log = logging.getLogger(__name__)


class AvCapture:
    """What FFmpeg reads, decoded by the processor or, with `cuda`, by NVDEC alone.

    With `body` it reads that, of the address `uri`, instead of asking for it. `timeouts` are the seconds that opening
    and each read may take; `threads` 0 leaves their number to FFmpeg. Several delay each frame of a live stream by as
    many. Raises InputError where nothing opens, and with `cuda` EngineError for a codec that NVDEC does not know.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        options: Mapping[str, str],
        timeouts: tuple[float, float] | None = None,
        *,
        threads: int = 0,
        cuda: bool = False,
        body: Unmeasured | None = None,
    ) -> None:
        self.fault = ""
        """Why a stream on the network broke off, or its packets no longer decode; empty at an ordinary end."""
        self.unmarked = body is not None and not body.marked
        """Whether nothing but the number of frames tells the end from a connection that broke off."""
        self._body = body
        self._name = name
        self._remote = "://" in uri  # what is missing of a file, its container says
        self._damaged = 0
        self._taken = False
        self._position = 0.0
        self._reformatter = VideoReformatter()
        accelerated = _cuda() if cuda else None
        try:
            given = {**DETECTION, **options} if self._remote else dict(options)
            self._container = av.open(body or uri, "r", options=given, timeout=timeouts, hwaccel=accelerated)
        except (av.FFmpegError, OSError) as error:
            if body is not None:
                body.close()
            raise InputError(f"{name}: {because(uri, error)}") from None  # PyAV's own message holds the address
        except RuntimeError:  # PyAV's, where no stream has a codec of the hardware
            if not cuda:
                raise
            raise EngineError(
                f"{name}: got no codec that NVDEC decodes, expected H.264 or another of its own"
            ) from None
        best = self._container.streams.best("video")
        if not isinstance(best, av.VideoStream):
            self._container.close()
            raise InputError(f"{name}: got a stream without video, expected video; check the address")
        self._stream = best
        codec = best.codec_context
        try:
            check_size(name, codec.width, codec.height)
        except InputError:
            self._container.close()
            raise
        codec.options = {"max_pixels": str(LARGEST_IMAGE)}
        if threads:
            best.codec_context.thread_count = threads
        else:
            best.thread_type = "AUTO"
        self._frames = self._decoded()
        self._first: av.VideoFrame | None = None

    @property
    def codec(self) -> str:
        """As FFmpeg calls it: h264, hevc, mjpeg."""
        return str(self._stream.codec_context.name)

    @property
    def rotation(self) -> int:
        """Degrees by which the first frame is to be turned. Decodes it; raises EngineError where that fails."""
        self._first = self._first or self._decoded_first()
        return int(self._first.rotation)

    def next(self) -> Make | None:
        """The next frame; None at the end, or when the stream is lost."""
        try:
            frame = self._first or next(self._frames, None)
        except (av.FFmpegError, OSError) as error:
            frame = None
            self.fault = _said(error) if self._remote else ""
        self._first = None
        if frame is None:
            self.fault = self.fault or (self._body.fault if self._body else "")
            return None
        self._taken = True
        start = self._stream.start_time or 0
        if frame.pts is not None and self._stream.time_base is not None:
            self._position = float((frame.pts - start) * self._stream.time_base)
        return partial(self._bgr, frame)

    def get(self, property_id: int) -> float:
        """The rate, the position in milliseconds, and how many frames the container promises; 0 for all else."""
        known = {
            cv2.CAP_PROP_FPS: float(self._stream.average_rate or 0),
            cv2.CAP_PROP_POS_MSEC: self._position * 1000,
            cv2.CAP_PROP_FRAME_COUNT: self._promised(),
        }
        return known.get(property_id, 0.0)

    def _promised(self) -> float:
        """How many frames the container states; Matroska states only how long it is."""
        if self._stream.frames or "matroska" not in self._container.format.name:
            return float(self._stream.frames)
        return (self._container.duration or 0) / av.time_base * float(self._stream.average_rate or 0)

    def release(self) -> None:
        """Close it."""
        if self._damaged and self._taken:  # without any frame there is an error to say it
            log.warning("%s: left out %d packets that do not decode", self._name, self._damaged)
        self._damaged = 0
        self._frames.close()
        self._container.close()
        if self._body is not None:
            self._body.close()

    def _bgr(self, frame: av.VideoFrame) -> Frame:
        image = self._reformatter.reformat(frame, format="bgr24").to_ndarray()
        turns = int(frame.rotation) // 90
        return cast("Frame", np.ascontiguousarray(np.rot90(image, turns)) if turns else image)

    def _packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        """The packets and, also where a stream on the network breaks off, an empty one for what the decoder holds."""
        try:
            yield from self._container.demux(self._stream)
        except (av.FFmpegError, OSError) as error:
            if not self._remote:
                raise
            self.fault = _said(error)
            last = cast("av.Packet[av.VideoStream]", av.Packet())
            last.stream = self._stream
            yield last

    def _decoded(self) -> Generator[av.VideoFrame, None, None]:
        row = 0
        for packet in self._packets():
            if self.codec == "mjpeg" and (size := jpeg_size(bytes(packet))) is not None:
                check_size(self._name, size[1], size[0])
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self._check_refused()
                if not isinstance(error, av.InvalidDataError):
                    raise
                row, self._damaged = row + 1, self._damaged + 1
                if row > DAMAGED:
                    self.fault = f"{row} packets in a row that do not decode"
                    return
                continue
            row = 0 if frames else row
            yield from frames

    def _check_refused(self) -> None:
        """Raise InputError if the decoder refused an image for its size: it then has that size, or none."""
        codec = self._stream.codec_context
        check_size(self._name, codec.width, codec.height)
        if codec.is_open and not codec.width:
            raise too_large(self._name, "images too large to decode")

    def _decoded_first(self) -> av.VideoFrame:
        """The first frame, or EngineError where the decoder makes none of what should give one."""
        since = 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError) as error:
                raise EngineError(f"{self._name}: got {_said(error)} of the decoder, expected a frame") from None
            if frames:
                return frames[0]
            since += bool(since or packet.is_keyframe)
            if since > UNSEEN:
                break
        raise EngineError(f"{self._name}: got no frame of the decoder, expected one within {UNSEEN} packets")


def _cuda() -> HWAccel:
    from av.codec.hwaccel import HWAccel  # which PyAV has from 14.1 on

    return HWAccel("cuda", allow_software_fallback=False)


def _said(error: Exception) -> str:
    return (getattr(error, "strerror", None) or type(error).__name__).lower()
