"""From a polygon to the pixels in it, and how much of them each class covers."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime.frames import Frame

Point = tuple[float, float]
"""x and y, 0 to 1 from the frame's top left."""


def rasterise(points: Sequence[Point], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a map of `size` (height, width) have their centre in the polygon, bool [H, W].

    Where sides cross, what an odd number of them surrounds is inside.
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
    """The share of a zone that each class covers. The polygon is rasterised once for each size of a class map."""

    def __init__(self, points: Sequence[Point] | None, classes: int) -> None:
        self._points = points
        self._classes = classes
        self._size: tuple[int, int] = (0, 0)
        self._mask: Frame | None = None
        self._box = (slice(None), slice(None))

    def __call__(self, class_map: Frame) -> NDArray[np.float64]:
        """Shares [classes] of a class map, uint8 [h, w], that shows just the frame; they sum to one."""
        if self._points is not None and class_map.shape != self._size:
            self._fit(self._points, (class_map.shape[0], class_map.shape[1]))
        part = class_map[self._box]
        counts = cv2.calcHist([part], [0], self._mask, [self._classes], [0, self._classes]).ravel()
        total = part.size if self._mask is None else int(np.count_nonzero(self._mask))
        return counts.astype(np.float64) / total

    def _fit(self, points: Sequence[Point], size: tuple[int, int]) -> None:
        inside = rasterise(points, size)
        if not inside.any():  # smaller than a pixel of this map: the pixel at its middle stands for it
            x, y = np.mean(points, axis=0)
            inside[min(int(y * size[0]), size[0] - 1), min(int(x * size[1]), size[1] - 1)] = True
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        self._box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        self._mask = np.ascontiguousarray(inside[self._box]).astype(np.uint8)
        self._size = size
