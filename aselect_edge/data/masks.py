"""Label files: PNGs whose values are class indices, or numbers that a table turns into such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame

NO_LABEL = 255
_ONE_BYTE = frozenset({"1", "L", "P"})


def open_png(path: Path, colours: bool = False) -> tuple[str, NDArray[Any]]:
    """Pillow's mode of an image and its values as they are stored; of a palette image the indices, or its `colours`.

    Not OpenCV, which turns the indices of a palette image into colours.
    """
    try:
        with Image.open(path) as image:
            return image.mode, np.asarray(image.convert("RGB") if colours and image.mode == "P" else image)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected the label of an image; add it") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "it")
        raise InputError(f"{path}: does not decode ({reason}), expected a PNG of labels; replace it") from error


def read_indices(path: Path) -> Frame:
    """A label file's values, uint8 [H, W]; raises InputError unless it has one channel with values of up to 255."""
    mode, values = open_png(path)
    if mode not in _ONE_BYTE and not mode.startswith("I"):
        raise InputError(
            f"{path}: got the mode {mode}, expected class indices in a single channel; convert it, or, if its colours "
            "are the classes, put a labelmap.txt with lines such as road:128,64,128 at the top of the data"
        )
    if values.max(initial=0) > NO_LABEL or values.min(initial=0) < 0:
        raise InputError(f"{path}: got the value {values.max()}, expected classes from 0 to {NO_LABEL}; renumber them")
    return values.astype(np.uint8)


@dataclass(frozen=True)
class Remapped:
    """Reads masks whose values are not the classes: `known` says which value is which class, or no label."""

    known: Mapping[int, int]

    def __call__(self, path: Path) -> Frame:
        """Class map uint8 [H, W]; raises InputError for a value that is not known."""
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
