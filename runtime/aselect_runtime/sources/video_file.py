"""A video file, decoded by hardware or by the FFmpeg inside OpenCV."""

from __future__ import annotations

from pathlib import Path

from aselect_runtime.errors import ImageSizeError, InputError
from aselect_runtime.media import library_path, printable
from aselect_runtime.sources.container import missing_bytes
from aselect_runtime.sources.decoding import Decoding
from aselect_runtime.sources.hardware import Place, by_hardware
from aselect_runtime.sources.opencv import Capture, DeferredCapture, open_file
from aselect_runtime.sources.video import Video

TRIES = 64
"""Reads without a frame before a file counts as ended: 64 times 4096 audio packets may be between two frames."""


class VideoFile(Video):
    """Decodes by hardware or with FFmpeg inside OpenCV; raises InputError on entering if nothing can be decoded.

    Without `decoding` the processor decodes, and nothing is said of it.
    """

    def __init__(self, path: Path, decoding: Decoding | None = None) -> None:
        name = printable(path)
        super().__init__(
            name,
            path.stem,
            lambda: _connect(path, name, decoding),
            lambda: missing_bytes(path),
            TRIES,
            lambda: decoding.say_processor("videos", name) if decoding else None,
            lambda _: _check_first(path, name),
        )


def _connect(path: Path, name: str, decoding: Decoding | None) -> Capture | DeferredCapture:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror}), expected a video; check the path") from error
    if decoding is not None:
        with library_path(path) as given:
            if (accelerated := by_hardware(Place(given, name), decoding)) is not None:
                return accelerated
    capture = open_file(path)
    if not capture.isOpened():
        raise InputError(
            f"{path}: got {size} bytes that cannot be opened, expected a video; it may be truncated, copy it again"
        )
    return capture


def _check_first(path: Path, name: str) -> None:
    """Raise ImageSizeError if the first image is too large: OpenCV does not say why it decodes nothing."""
    try:
        from aselect_runtime.sources.av_capture import AvCapture
    except ImportError:
        return
    try:
        with library_path(path) as given:
            capture = AvCapture(given, name, {}, threads=1)
            try:
                capture.next()
            finally:
                capture.release()
    except ImageSizeError:
        raise
    except InputError:  # of a file, OpenCV's reader says better what else is wrong
        return
