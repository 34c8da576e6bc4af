"""Frames: reading images, and the resize that training, calibration, evaluation and the runtime share.

A frame is uint8 [H, W, 3] in BGR order, as OpenCV returns it. Needs NumPy and OpenCV only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime.complete import is_cut
from aselect_runtime.errors import InputError
from aselect_runtime.files import read_file
from aselect_runtime.records import Resize

Frame: TypeAlias = NDArray[np.uint8]
Scalar = TypeVar("Scalar", np.uint8, np.float32)

HEIC = frozenset({b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"})
"""How the files of a telephone begin, after four bytes, if they are no JPEG; OpenCV does not read them."""
PAD = 114
"""Grey value of letterbox borders."""

NEAREST = cv2.INTER_NEAREST_EXACT
"""Of class maps: the pixel with the nearest centre, as `resize` places a frame's pixels. INTER_NEAREST looks at
corners instead, which moves a map by up to half a pixel of the model to the right and down."""
_INTERPOLATION = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}


def stretched(
    pixels: NDArray[Scalar], size: tuple[int, int], interpolation: int, out: NDArray[Scalar] | None = None
) -> NDArray[Scalar]:
    """OpenCV's resize to `size` (height, width), whose annotations do not say that the element type stays."""
    return cast("NDArray[Scalar]", cv2.resize(pixels, size[::-1], dst=out, interpolation=interpolation))


def resize(frame: Frame, size: tuple[int, int], how: Resize, out: Frame | None = None) -> Frame:
    """Fit a frame [H, W, 3] to `size` (height, width) as the record says; returns a contiguous uint8 array.

    `stretch` ignores the aspect ratio; `letterbox` keeps it and centres the image on grey. With `out`, an array of
    the result's shape, the result is written there and `out` is returned.
    """
    height, width = size
    top, left, inner_height, inner_width = placement(frame.shape[:2], size, how)
    interpolation = _INTERPOLATION[how.interpolation]
    if out is not None and (inner_height, inner_width) == (height, width):
        return stretched(frame, size, interpolation, out)
    if frame.shape[:2] == (inner_height, inner_width):
        inner = frame
    else:
        inner = stretched(frame, (inner_height, inner_width), interpolation)
    if (inner_height, inner_width) == (height, width) and out is None:
        return np.ascontiguousarray(inner)
    canvas = np.empty((height, width, *frame.shape[2:]), np.uint8) if out is None else out
    canvas[:] = PAD
    canvas[top : top + inner_height, left : left + inner_width] = inner
    return canvas


def placement(frame: tuple[int, ...], size: tuple[int, int], how: Resize) -> tuple[int, int, int, int]:
    """Where a frame of shape (height, width) is placed in the model input: (top, left, height, width) in pixels."""
    height, width = size
    if how.mode == "stretch":
        return 0, 0, height, width
    scale = min(height / frame[0], width / frame[1])
    inner_height = min(height, max(1, round(frame[0] * scale)))
    inner_width = min(width, max(1, round(frame[1] * scale)))
    return (height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width


def resize_label(label: Frame, size: tuple[int, int], how: Resize, ignore: int) -> Frame:
    """Resize a label map [H, W] as `resize` does its frame: nearest neighbour, borders filled with `ignore`."""
    if how.mode == "stretch":
        return stretched(label, size, NEAREST)
    top, left, h, w = placement(label.shape, size, how)
    canvas = np.full(size, ignore, np.uint8)
    canvas[top : top + h, left : left + w] = stretched(label, (h, w), NEAREST)
    return canvas


def restore(pixels: NDArray[Scalar], frame: tuple[int, ...], how: Resize) -> NDArray[Scalar]:
    """Resize a map [h, w] of the model input, without borders, to the frame's (height, width), nearest neighbour."""
    top, left, inner_height, inner_width = placement(frame, pixels.shape[:2], how)
    inner = pixels[top : top + inner_height, left : left + inner_width]
    return stretched(inner, (frame[0], frame[1]), NEAREST)


def read_image(path: Path) -> Frame:
    """Decode an image file to a BGR frame; raises InputError if it is missing, empty or corrupt."""
    try:
        content = read_file(path)
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror}), expected an image; check the path") from error
    got = f"{path}: got {len(content)} bytes that do not decode"
    if is_cut(content):
        raise InputError(f"{got} (the end is missing), expected an image; copy it again")
    data = np.frombuffer(content, np.uint8)
    # IMREAD_COLOR, not UNCHANGED: grey, palette and alpha images all become three channels.
    try:
        frame = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # a header with more pixels than OpenCV's limit
        frame = None
    if frame is None:
        if content[4:12] in HEIC:
            raise InputError(f"{got} (it is HEIC, whatever its suffix), expected .jpg or .png; convert it")
        raise InputError(f"{got}, expected an image; replace or remove it")
    return cast("Frame", frame)
