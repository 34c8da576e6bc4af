"""Whether the bytes of an image are complete: decoders fill what is missing with grey, or write lines of their own.

OpenCV 5 refuses a cut JPEG; OpenCV 4 decodes it.
"""

from __future__ import annotations

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SCAN, _END = 0xDA, b"\xff\xd9"
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without data."""


def is_cut(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; False for other formats. Data behind the end (MPO) is ignored."""
    if data.startswith(PNG):
        return b"IEND" not in data
    return data.startswith(JPEG) and data.find(_END, _scan(data)) < 0


def _scan(data: bytes) -> int:
    """Where the pixels of a JPEG begin: a thumbnail before them has an end of its own."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at
