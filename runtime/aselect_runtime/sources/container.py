"""Detecting truncated video files: the length that the container states, compared with the size of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"})
"""Box types with which an ISO base media file (.mp4, .mov, .3gp) may begin."""
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
"""Identifiers of Matroska's two top-level elements."""


def missing_bytes(path: Path) -> int:
    """Number of bytes that are missing at the end of the file; 0 if none are, or if the format does not state it."""
    with path.open("rb") as stream:
        head = stream.read(8)
        end = _length(head)(stream)
    return max(0, end - path.stat().st_size)


def _length(head: bytes) -> Callable[[BinaryIO], int]:
    if head[4:8] in BOXES:
        return _boxes
    if head[:4] == b"RIFF":
        return _riff
    return _matroska if head[:4] == EBML else lambda _: 0


def _boxes(stream: BinaryIO) -> int:
    """The end of the last box; each begins with its size (4 or 8 bytes) and its type."""
    at = 0
    while stream.seek(at) == at and len(head := stream.read(16)) >= 8:
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0: up to the end of the file; anything else is padding
            return 0
        at += size
    return at


def _riff(stream: BinaryIO) -> int:
    """The end of the last top-level chunk; a long AVI has several."""
    at = 0
    while stream.seek(at) == at and len(head := stream.read(8)) == 8 and head[:4] == b"RIFF":
        at += 8 + int.from_bytes(head[4:], "little")
    return at


def _matroska(stream: BinaryIO) -> int:
    """The end of the segment, which follows the header; its size is missing if the recorder was killed."""
    stream.seek(4)
    header = _size(stream)
    if header is None:
        return 0
    stream.seek(header, 1)
    if stream.read(4) != SEGMENT:
        return 0
    size = _size(stream)
    return 0 if size is None else stream.tell() + size


def _size(stream: BinaryIO) -> int | None:
    """An EBML number: the first byte's leading zeros give the number of further bytes; None (unknown) if all ones."""
    first = stream.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + stream.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
