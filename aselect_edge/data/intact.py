"""Properties of an image file that do not need decoding: whether it is complete, and its EXIF orientation."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

from PIL import Image

from aselect_runtime.errors import InputError
from aselect_runtime.frames import read_image

_ENDS = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"))
"""First and last bytes of a JPEG and a PNG, to check a hundred thousand files in seconds. Damage between them
is rare except on a failing disk."""
_ORIENTATION = 0x0112


def readable(path: Path) -> bool:
    """Whether an image that exists decodes; an image with correct first and last bytes is assumed to."""
    try:
        status = path.stat()
    except OSError:
        return True  # a missing file is reported by its reader
    return _readable(path, status.st_size, status.st_mtime_ns)


@cache
def _readable(path: Path, size: int, changed: int) -> bool:  # noqa: ARG001 - part of the key
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False  # a pipe would be waited for
        with path.open("rb") as file:
            first = file.read(8)
            file.seek(max(0, size - 8), os.SEEK_SET)
            last = file.read()
    except OSError:
        return False
    if any(first.startswith(begin) and last.endswith(end) for begin, end in _ENDS):
        return True
    try:
        read_image(path)
    except InputError:
        return False
    return True


def size_as_read(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` returns it, from its header.

    OpenCV turns JPEG, PNG and WebP by their EXIF tag; Pillow gives the size of TIFF as it is turned, and OpenCV does
    not turn AVIF.
    """
    with Image.open(path) as image:
        (width, height), swaps = image.size, image.format not in ("TIFF", "AVIF")
    return (width, height) if swaps and orientation(path) >= 5 else (height, width)


def orientation(path: Path) -> int:
    """EXIF's orientation of an image, 1 to 8: 1 is upright, 5 to 8 swap height and width."""
    try:
        with Image.open(path) as image:
            turn = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
