"""Video on the network through PyAV's FFmpeg, with a limit on the size of images.

FFmpeg allocates what a stream declares, and decodes images even while it only detects the format: so detection runs
without decoders, and the decoder that is opened afterwards refuses images of more than LARGEST_IMAGE pixels.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from aselect_runtime.errors import InputError, MissingDependencyError
from aselect_runtime.frames import Frame
from aselect_runtime.sources.addresses import why_not
from aselect_runtime.sources.mjpeg import LARGEST_IMAGE, jpeg_size
from aselect_runtime.sources.tls import Trust

if TYPE_CHECKING:
    from av.container import InputContainer

OPEN_TIMEOUT = 10.0
READ_TIMEOUT = 10.0
"""Seconds that FFmpeg waits for the server."""
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""Environment variable with FFmpeg options of the user, `name;value|name;value`, as OpenCV reads them."""
LOOKING = {"codec_whitelist": "none", "analyzeduration": "1000000"}
"""For format detection: no decoders, and at most one second, because it waits for values that only decoders give."""


def open_stream(uri: str, name: str, trust: Trust | None, *, live: bool) -> StreamCapture:
    """Connect; raises InputError if that fails, or if the stream declares images that are too large."""
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            f"{name}: got no av (PyAV), expected it for streams of the network; pip install 'aselect-runtime[cpu]' "
            "(on a Jetson 'aselect-runtime[jetson]')"
        ) from error
    fault = ""
    try:
        container = av.open(
            uri, options={**LOOKING, **stream_options(uri, trust)}, timeout=(OPEN_TIMEOUT, READ_TIMEOUT)
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        fault = why_not(uri, error)
    if fault:  # outside the block: FFmpeg's error message contains the address with its password
        raise InputError(f"{name}: {fault}")
    try:
        return StreamCapture(container, name, live=live)
    except BaseException:
        container.close()
        raise


def stream_options(uri: str, trust: Trust | None) -> dict[str, str]:
    """FFmpeg options; the user's options take precedence."""
    # RTSP over TCP: lost UDP packets would corrupt the image.
    ours = {"rtsp_transport": "tcp"} if uri.lower().startswith("rtsp") else {}
    given = os.environ.get(OPTIONS, "")
    theirs = dict(option.split(";", 1) for option in given.split("|") if ";" in option)
    return {**ours, **({} if trust is None else trust.options()), **theirs}


class StreamCapture:
    """Reads like a cv2.VideoCapture. Raises InputError for images of more than LARGEST_IMAGE.

    It may be released while another thread reads: that thread then closes the connection after its read.
    """

    def __init__(self, container: InputContainer, name: str, *, live: bool) -> None:
        if not container.streams.video:
            raise InputError(f"{name}: got a stream without video, expected one with it; check the path")
        self._container = container
        self._name = name
        self._stream = container.streams.video[0]
        self._codec = self._stream.codec_context
        self._check_size(self._codec.width, self._codec.height)
        self._codec.options = {"max_pixels": str(LARGEST_IMAGE)}
        if live:  # each additional decoding thread delays frames by one
            self._codec.thread_count = 1
        else:
            self._codec.thread_type = "AUTO"
        self._packets = container.demux(self._stream)
        self._decoded: deque[Any] = deque()
        self._position = 0.0
        self._lock = Lock()
        self._over = False

    def read(self, _: Frame | None = None) -> tuple[bool, Frame | None]:
        """The next frame, BGR and upright; (False, None) at the end of the stream, or after an error."""
        with self._lock:
            frame = None if self._over else next(self._frames(), None)
        if self._over:
            self._close()
        return frame is not None, frame

    def get(self, prop: int) -> float:
        """The frame rate, the number of frames, and the position of the last frame in milliseconds; 0 if unknown."""
        known: Mapping[int, float] = {
            cv2.CAP_PROP_FPS: float(self._stream.average_rate or self._stream.guessed_rate or 0),
            cv2.CAP_PROP_FRAME_COUNT: float(self._stream.frames),
            cv2.CAP_PROP_POS_MSEC: 1000 * self._position,
        }
        return known.get(prop, 0.0)

    def release(self) -> None:
        """Close the connection; if a read is running, its thread closes it."""
        self._over = True
        self._close()

    def _close(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._container.close()
            finally:
                self._lock.release()

    def _frames(self) -> Iterator[Frame]:
        while True:
            while self._decoded:
                yield self._upright(self._decoded.popleft())
            try:
                packet = next(self._packets)
            except (StopIteration, OSError, ValueError):  # av.FFmpegError derives from these
                return
            if self._codec.name == "mjpeg" and (size := jpeg_size(bytes(packet))) is not None:
                self._check_size(size[1], size[0])
            try:
                self._decoded.extend(packet.decode())
            except (OSError, ValueError):  # damaged or too large: the next packet may be valid
                # FFmpeg sets the size to zero for an image that it refuses, or does not change it.
                self._check_size(self._codec.width, self._codec.height, refused=self._codec.is_open)

    def _check_size(self, width: int, height: int, *, refused: bool = False) -> None:
        if width * height > LARGEST_IMAGE or (refused and not width):
            size = f"images of {width}x{height}" if width else "images too large to decode"
            raise InputError(
                f"{self._name}: got {size}, expected at most {LARGEST_IMAGE >> 20} megapixels; check the camera"
            )

    def _upright(self, frame: Any) -> Frame:
        start = float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        self._position = (frame.time or start) - start
        image: Frame = frame.to_ndarray(format="bgr24")
        turns = int(getattr(frame, "rotation", 0)) // 90
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
