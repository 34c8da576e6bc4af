"""Whether the bytes of an image are complete: decoders fill what is missing with grey, or print lines of their own.

OpenCV 5 refuses a cut JPEG; OpenCV 4 decodes it.
"""

from __future__ import annotations

from collections.abc import Iterator

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SCAN, _END = 0xDA, b"\xff\xd9"
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without data."""


def is_cut(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; False for other formats. Data behind the end (MPO) is ignored."""
    if data.startswith(PNG):
        return b"IEND" not in data
    if not data.startswith(JPEG):
        return False
    # A thumbnail before the pixels has an end of its own.
    pixels = next((at for marker, at in jpeg_segments(data) if marker == _SCAN), len(data))
    return data.find(_END, pixels) < 0


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The segments of a JPEG up to its pixels: the marker of each, and the offset of its length."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # a fill byte, or a marker without data
            at += 1 if marker == 0xFF else 2
            continue
        yield marker, at + 2
        if marker == _SCAN:
            return
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
