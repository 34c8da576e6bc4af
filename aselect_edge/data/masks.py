"""Label files: images (or MATLAB files) whose values are class indices, or are mapped to them by a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aselect_edge.data.lists import read_mask
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.media import IMAGE_SUFFIXES, warn_once

SUFFIXES = IMAGE_SUFFIXES | {".mat"}
"""File suffixes of labels."""
NO_LABEL = 255
_LOSSY = (".jpg", ".jpeg", ".webp")
_BETWEEN = 0.05
"""Largest share of pixels well between black and white in a black-and-white mask that was stored as JPEG."""


def open_png(path: Path, colours: bool = False) -> tuple[str, NDArray[Any]]:
    """Pillow's mode of an image and its stored values; of a palette image the indices, or with `colours` its colours.

    OpenCV is not used, because it converts palette indices to colours. One-bit images give 0 or 255.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode == "1":
                return "L", np.asarray(image.convert("L"))
            return mode, np.asarray(image.convert("RGB") if colours and mode == "P" else image)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected the label of an image; add it") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "it")
        raise InputError(f"{path}: cannot be decoded ({reason}), expected a PNG of labels; replace it") from error


def grey_bits(path: Path) -> int:
    """Bits of a sample of a grey PNG, of which Pillow spreads 1, 2 and 4 over 0 to 255; 8 of any other file."""
    with path.open("rb") as file:
        header = file.read(26)  # signature, length and name of IHDR, width, height, bits, colour type
    grey = header[:8] == b"\x89PNG\r\n\x1a\n" and header[25:26] == b"\0"
    return header[24] if grey else 8


def read_indices(path: Path) -> Frame:
    """A label file's values, uint8 [H, W]; raises InputError unless it has one channel with values of up to 255.

    Three equal channels count as one. A JPEG is accepted if it is black and white, as it cannot store other indices.
    """
    mode, values = ("I", read_mask(path)) if path.suffix.lower() == ".mat" else open_png(path)
    values = _grey(values, mode)
    if values.ndim != 2 or (mode not in ("L", "P", "RGB", "RGBA", "LA") and not mode.startswith("I")):
        raise InputError(
            f"{path}: got the mode {mode}, expected class indices in a single channel; convert it, or, if its colours "
            "are the classes, put a labelmap.txt with lines such as road:128,64,128 at the top of the data"
        )
    if values.max(initial=0) > NO_LABEL or values.min(initial=0) < 0:
        raise InputError(f"{path}: got the value {values.max()}, expected classes from 0 to {NO_LABEL}; renumber them")
    return _black_and_white(path, values) if path.suffix.lower() in _LOSSY else values.astype(np.uint8)


def _grey(values: NDArray[Any], mode: str) -> NDArray[Any]:
    """One channel of an image whose colours are all grey; any other image unchanged."""
    if values.ndim != 3:
        return values
    colours = values[..., :-1] if mode in ("RGBA", "LA") else values
    opaque = mode not in ("RGBA", "LA") or (values[..., -1] == values[0, 0, -1]).all()
    return colours[..., 0] if opaque and (colours == colours[..., :1]).all() else values


def _black_and_white(path: Path, values: NDArray[Any]) -> Frame:
    between = ((values > 63) & (values < 192)).mean() if values.size else 0.0
    if between > _BETWEEN:
        raise InputError(
            f"{path}: got a JPEG with {between:.0%} of its pixels between black and white, expected a PNG, which keeps "
            "class indices; save the masks as PNG"
        )
    warn_once(
        f"{path.parent}: masks are stored with lossy compression ({path.suffix}) and read as black and white; prefer "
        f"PNG"
    )
    return np.where(values < 128, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Remapped:
    """Reads masks whose values are not class indices: `known` maps each value to its class, or to no label."""

    known: Mapping[int, int]

    def __call__(self, path: Path) -> Frame:
        """Class map uint8 [H, W]; raises InputError for an unknown value."""
        values = read_indices(path)
        present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        unknown = [int(value) for value in present if value not in self.known]
        if unknown:
            raise InputError(
                f"{path}: got the value {unknown[0]}, expected one of {_ranges(self.known)}; correct the label"
            )
        table = np.zeros(256, np.uint8)
        table[list(self.known)] = list(self.known.values())
        return table[values]


def _ranges(values: Mapping[int, int]) -> str:
    ordered = sorted(values)
    return (
        ", ".join(map(str, ordered)) if len(ordered) <= 12 else f"the {len(ordered)} from {ordered[0]} to {ordered[-1]}"
    )
