"""A procedural street in CamVid's eleven classes, behind ``synthetic://street``.

A pinhole camera moves along an endless street of houses, trees and traffic. Image and labels are drawn from the same
polygons, so the labels are exact. Uses NumPy and OpenCV only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.errors import InputError
from aselect_runtime.scenes.view import render

__all__ = ["CLASSES", "COLOURS", "Street", "sample"]

CLASSES: tuple[str, ...] = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
# RGB, the colours of CamVid.
COLOURS: tuple[tuple[int, int, int], ...] = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
_SMALLEST, _LARGEST = 16, 4096


@dataclass(frozen=True)
class Street:
    """One drive down one street.

    `height` and `width` are pixels (16 to 4096), `fps` is frames per second; other values raise InputError.
    """

    seed: int = 0
    height: int = 360
    width: int = 480
    fps: float = 25.0

    def __post_init__(self) -> None:
        for name, size in (("height", self.height), ("width", self.width)):
            if not _SMALLEST <= size <= _LARGEST:
                raise InputError(
                    f"got {name}={size} for a synthetic street; expected {_SMALLEST} to {_LARGEST} pixels; "
                    f"choose a {name} in that range"
                )
        if self.seed < 0:
            raise InputError(f"got seed={self.seed} for a synthetic street; expected 0 or more; choose another seed")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise InputError(f"got fps={self.fps} for a synthetic street; expected more than 0; use 25 if in doubt")

    def frame(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (BGR uint8 [H, W, 3]) and labels (uint8 [H, W], 0 to 10) of frame `index`, counted from 0.

        A pure function of the street and `index`: frames may be rendered in any order. InputError if negative.
        """
        if index < 0:
            raise InputError(f"got frame index {index}; expected 0 or more; count frames from 0")
        return render(self.seed, self.height, self.width, index, index / self.fps)


def sample(rng: np.random.Generator, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One frame of a random street at a random moment: image (BGR uint8 [H, W, 3]) and labels (uint8 [H, W])."""
    street = Street(seed=int(rng.integers(2**31)), height=height, width=width)
    return street.frame(int(rng.integers(5000)))
