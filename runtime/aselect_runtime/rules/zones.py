"""Rasterising a zone's polygon, and the share of its pixels that each class covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.frames import Frame

Point = tuple[float, float]
"""x and y, 0 to 1, from the top left of the frame."""


def rasterise(points: Sequence[Point], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a map of `size` (height, width) have their centre in the polygon, bool [H, W].

    For a polygon that crosses itself the even-odd rule applies.
    """
    height, width = size
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    inside = np.zeros(size, np.bool_)
    for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
        rows = (y1 > y) != (y2 > y)  # the rows whose centre line this side crosses
        if rows.any():
            crossing = x1 + (y[rows] - y1) * (x2 - x1) / (y2 - y1)
            inside[rows] ^= x < crossing[:, None]
    return inside


class ZoneShares:
    """The share of a zone that a class covers. The polygon is rasterised once for each size of a class map."""

    def __init__(self, points: Sequence[Point] | None) -> None:
        """`points` are the polygon's corners; None means the whole frame."""
        self._points = points
        self._size: tuple[int, int] = (0, 0)
        self._mask: NDArray[np.bool_] | None = None
        self._pixels = 0
        self._box = (slice(None), slice(None))

    def __call__(self, class_map: Frame, number: int) -> float:
        """The share of the zone that class `number` covers in a class map, uint8 [h, w], without borders."""
        if class_map.shape != self._size:
            self._fit((class_map.shape[0], class_map.shape[1]))
        covered = class_map[self._box] == number
        if self._mask is not None:
            covered &= self._mask
        return int(np.count_nonzero(covered)) / self._pixels

    def _fit(self, size: tuple[int, int]) -> None:
        self._size = size
        if self._points is None:
            self._pixels = size[0] * size[1]
            return
        inside = rasterise(self._points, size)
        if not inside.any():  # the zone is smaller than a pixel of this map: use the pixel at its centre
            x, y = np.mean(self._points, axis=0)
            inside[min(int(y * size[0]), size[0] - 1), min(int(x * size[1]), size[1] - 1)] = True
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        self._box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        self._mask = np.ascontiguousarray(inside[self._box])
        self._pixels = int(np.count_nonzero(inside))
