"""JPEG images over HTTP (multipart/x-mixed-replace), as many cameras send them, read with limits on their size.

FFmpeg has no such limits: an image of 16000x16000 pixels or a part without an end would use all of the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import cast

import cv2
import numpy as np

from aselect_runtime.complete import jpeg_segments
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.sources.deferred import Make
from aselect_runtime.sources.image_size import LARGEST_IMAGE
from aselect_runtime.sources.request import CEASED, Body, request
from aselect_runtime.sources.tls import Trust

LARGEST_PART = 16 << 20
"""Maximum bytes of one image; a JPEG of LARGEST_IMAGE at high quality has fewer."""
HEADERS = 8192
"""Maximum bytes of the headers of a part, and of the data between two parts."""
CHUNK = 65536
_SIZE = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""JPEG markers that start a frame and contain its size."""


def open_mjpeg(uri: str, name: str, trust: Trust | None, timeout: float) -> MjpegCapture | None:
    """Request a stream from an http(s) address; None if it is of another kind, which FFmpeg may be able to read.

    Raises InputError if the server refuses or does not answer within `timeout` seconds.
    """
    body = request(uri, name, trust, timeout)
    boundary = body.headers.get_param("boundary")
    if body.headers.get_content_maintype() != "multipart" or not isinstance(boundary, str):
        body.close()
        return None
    return MjpegCapture(body, boundary, name)


class MjpegCapture:
    """Its images are decoded when asked for. Raises InputError for a part that is larger than a camera's can be."""

    def __init__(self, body: Body, boundary: str, name: str) -> None:
        self._body = body
        self._name = name
        self._buffer = bytearray()
        self._mark = b"--" + boundary.removeprefix("--").encode("latin-1", "replace")

    def next(self) -> Make | None:
        """The next image, decoded when it is made; None where there are no more."""
        try:
            part = next(self._parts(), None)
        except CEASED:
            return None
        if part is None:
            return None
        self._check_size(part)
        return partial(_decoded, part)

    def get(self, _: int) -> float:
        """Always 0.0: no property is known."""
        return 0.0

    def release(self) -> None:
        """Close the connection."""
        self._body.close()

    def _parts(self) -> Iterator[bytes]:
        while (before := self._until(self._mark, HEADERS + CHUNK)) is not None:
            if before.endswith(b"--"):  # the boundary itself begins with them, which many cameras leave out
                self._mark = b"--" + self._mark
            headers = self._until(b"\n\r\n", HEADERS)
            if headers is None:
                return
            length = re.search(rb"(?im)^content-length:\s*(\d+)", headers)
            part = self._until(b"\n" + self._mark, LARGEST_PART, keep=True) if length is None else self._take(length)
            if part is None:
                return
            yield part

    def _take(self, length: re.Match[bytes]) -> bytes | None:
        size = int(length[1]) if len(length[1]) < 12 else LARGEST_PART + 1
        if size > LARGEST_PART:
            raise self._too_much(f"a part of {length[1][:20].decode()} bytes")
        while len(self._buffer) < size:
            if not self._fill():
                return None
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part

    def _until(self, end: bytes, limit: int, *, keep: bool = False) -> bytes | None:
        """Read up to `end`; returns the bytes before it, None at the end of the stream.

        `end` is consumed too, except, with `keep`, all but its first byte.
        """
        seen = 0
        while (at := self._buffer.find(end, max(0, seen - len(end)))) < 0:
            seen = len(self._buffer)
            if seen > limit:
                raise self._too_much(f"more than {limit} bytes without an end")
            if not self._fill():
                return None
        found = bytes(self._buffer[:at])
        del self._buffer[: at + (1 if keep else len(end))]
        return found

    def _fill(self) -> bool:
        chunk = self._body.read1(CHUNK)
        self._buffer += chunk
        return bool(chunk)

    def _check_size(self, part: bytes) -> None:
        size = jpeg_size(part)
        if size is None or size[0] * size[1] > LARGEST_IMAGE:
            raise self._too_much("no JPEG image" if size is None else f"an image of {size[1]}x{size[0]}")

    def _too_much(self, what: str) -> InputError:
        return InputError(
            f"{self._name}: got {what}, expected JPEG images of at most {LARGEST_IMAGE >> 20} megapixels and "
            f"{LARGEST_PART >> 20} MiB; check the camera"
        )


def _decoded(part: bytes) -> Frame | None:
    return cast("Frame | None", cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR))


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from the header; None if the data is no JPEG."""
    if data[:2] != b"\xff\xd8":
        return None
    at = next((at for marker, at in jpeg_segments(data) if marker in _SIZE and at + 7 <= len(data)), None)
    if at is None:
        return None
    return int.from_bytes(data[at + 3 : at + 5], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
