"""MPEG-4 part 2 on the CPU, in a file that can be played at any moment: the one codec that every FFmpeg can write.

OpenCV cannot do this: it passes no options to the container, and holds back up to 256 KiB of the file.
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
from aselect_runtime.files import WRITE_FAULTS
from aselect_runtime.frames import Frame

SYNC = 1.0
"""Seconds between two times at which the file is forced to the disk: what a power cut may cost."""
GROUP = 12
"""Frames between two that stand by themselves, at most: a fragment of an .mp4, which is written whole."""
QUALITY = 3
"""Quantiser, from 1 (best) to 31."""
CONTAINERS = {
    # Fragments while it grows; closing it turns it into an ordinary .mp4 (FFmpeg 7.1 and later).
    ".mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov+hybrid_fragmented", "flush_packets": "1"}),
    ".mkv": ("matroska", {"cluster_time_limit": "1000", "flush_packets": "1"}),
}
"""Suffix -> FFmpeg's name of the container, and its options."""


class Mpeg4Writer:
    """Writes BGR frames of one size in place, in the manner of cv2.VideoWriter; an older file is replaced.

    Raises WriteError where the disk takes no more; what was written until then stays playable.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self._path = path
        self._synced = monotonic()
        kind, options = CONTAINERS[path.suffix]
        with self._naming():
            # A file of our own: FFmpeg would take some names for addresses, and others crash it.
            self._file = path.open("wb", buffering=0)
            try:
                self._container = av.open(self._file, "w", format=kind, options=options)
                self._stream = self._container.add_stream("mpeg4", rate=Fraction(fps).limit_denominator(65535))
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
        """Always: one that does not open raises."""
        return True

    def write(self, frame: Frame) -> None:
        """Encode one more frame."""
        with self._naming():
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
            if monotonic() - self._synced > SYNC:
                os.fdatasync(self._file.fileno())
                self._synced = monotonic()

    def release(self) -> None:
        """Complete the file."""
        if self._file.closed:
            return
        try:
            with self._naming():
                self._container.mux(self._stream.encode(None))
                self._container.close()
                os.fdatasync(self._file.fileno())
        finally:
            self._file.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in WRITE_FAULTS:
                raise
            raise WriteError(
                f"{self._path}: could not write ({error.strerror}), expected a writable place; free space or choose "
                "another"
            ) from error
