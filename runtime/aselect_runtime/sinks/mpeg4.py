"""MPEG-4 part 2 on the CPU, the codec that every FFmpeg can encode, in a file that can be played while it is written.

OpenCV cannot do this: it passes no options to the container, and buffers up to 256 KiB of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from time import monotonic

import av

from aselect_runtime.errors import WriteError
from aselect_runtime.files import WRITE_FAULTS, naming
from aselect_runtime.frames import Frame

SYNC = 1.0
"""Seconds between two flushes of the file to the disk: at most this much is lost at a power cut."""
GROUP = 12
"""Maximum frames between two keyframes: a fragment of an .mp4, which is written as a whole."""
QUALITY = 3
"""Quantiser, from 1 (best) to 31."""
MOST_TICKS = 65535
"""The largest numerator of a frame rate that MPEG-4 can state, as ticks per second."""
CONTAINERS = {
    # Fragmented while it is written; closing it turns it into an ordinary .mp4 (FFmpeg 7.1 and later).
    ".mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov+hybrid_fragmented", "flush_packets": "1"}),
    ".mkv": ("matroska", {"cluster_time_limit": "1000", "flush_packets": "1"}),
}
"""Suffix -> FFmpeg's name of the container, and its options."""


class Mpeg4Writer:
    """Writes BGR frames of one size with the methods of cv2.VideoWriter; an older file is overwritten.

    Raises WriteError if the disk is full or FFmpeg fails; what was written until then can be played.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self._path = path
        self._synced = monotonic()
        kind, options = CONTAINERS[path.suffix]
        with _writing(self._path):
            # Opened here, because FFmpeg reads some file names as addresses and crashes on others.
            self._file = path.open("wb", buffering=0)
            try:
                self._container = av.open(self._file, "w", format=kind, options=options)
                self._stream = self._container.add_stream("mpeg4", rate=_ratio(fps))
            except BaseException:
                self._file.close()
                raise
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.bit_rate = 1 << 30  # no limit: the quantiser alone decides
        context = self._stream.codec_context
        group = max(1, min(GROUP, round(fps / 2)))
        context.gop_size, context.qmin, context.qmax = group, QUALITY, QUALITY

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Always True: the constructor raises if the file cannot be opened."""
        return True

    def write(self, frame: Frame) -> None:
        """Encode a frame, uint8 [H, W, 3] BGR."""
        with _writing(self._path):
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
            if monotonic() - self._synced > SYNC:
                os.fdatasync(self._file.fileno())
                self._synced = monotonic()

    def release(self) -> None:
        """Complete the file."""
        if self._file.closed:
            return
        try:
            with _writing(self._path):
                self._container.mux(self._stream.encode(None))
                self._container.close()
                os.fdatasync(self._file.fileno())
        finally:
            self._file.close()


def _ratio(fps: float) -> Fraction:
    """The frame rate with a numerator of at most MOST_TICKS, to which phones and cameras do not keep."""
    return 1 / Fraction(1 / fps).limit_denominator(MOST_TICKS)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn every error of FFmpeg, and those of the disk, into a WriteError that names `path`."""
    with naming(path):
        try:
            yield
        except av.FFmpegError as error:
            if isinstance(error, OSError) and error.errno in WRITE_FAULTS:
                raise
            raise WriteError(
                f"{path}: got an error of FFmpeg ({error.strerror or type(error).__name__}), expected it to encode "
                "MPEG-4; write .jsonl instead"
            ) from error
