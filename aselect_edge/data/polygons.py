"""Class maps from outlines: polygons and COCO's run lengths, drawn as by COCO's own tools.

pycocotools is used because points in all these formats have sub-pixel coordinates: a pixel belongs to a polygon that
contains its centre. OpenCV's `fillPoly` takes pixel indices and makes every region one pixel wider and higher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame

Region: TypeAlias = tuple[int, NDArray[np.bool_]]
"""A class and its pixels, bool [H, W]."""
BACKGROUND = "background"
_SLACK = 0.02
"""Tolerance for points outside the image due to rounding, as a share of its longer side."""


@dataclass(frozen=True)
class Drawn:
    """Reads class maps that are drawn from each label file's outlines."""

    draw: Callable[[Path], Frame]
    """A label file -> class map uint8 [H, W]."""

    def __call__(self, path: Path) -> Frame:
        """Class map uint8 [H, W]; raises InputError, naming the file, for outlines that are not understood."""
        try:
            return self.draw(path)
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{path}: not understood ({type(error).__name__}: {error}), expected outlines of regions; correct it"
            ) from error


def class_map(size: tuple[int, int], regions: Iterable[Region]) -> Frame:
    """The regions drawn one over the other on background, class 0; uint8 [H, W]."""
    canvas: Frame = np.zeros(size, np.uint8)
    for label, where in regions:
        canvas[where] = label
    return canvas


def smallest_last(regions: Iterable[Region]) -> list[Region]:
    """Sort regions by decreasing area, so that a small region is not hidden by a larger one drawn later."""
    return sorted(regions, key=lambda region: -int(region[1].sum()))


def inside_polygons(rings: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels, bool [H, W], in any of the polygons x1, y1, x2, y2, …; raises ValueError for fewer than three points."""
    from pycocotools import mask

    height, width = size
    checked = [_checked(ring, size) for ring in rings]
    if not checked:
        raise ValueError("got a region without a polygon")
    merged = mask.merge(mask.frPyObjects(checked, height, width))
    # mask.decode is not used: it accepts any lengths and warns with NumPy 2.
    return inside_runs({"size": merged["size"], "counts": merged["counts"].decode()}, size)


def _checked(ring: Sequence[float], size: tuple[int, int]) -> list[float]:
    points = np.asarray(ring, np.float64)
    if points.ndim != 1 or points.size < 6 or points.size % 2:
        raise ValueError(f"got a polygon of {points.size} numbers, expected three points x, y or more")
    height, width = size
    slack = _SLACK * max(size) + 1
    outside = (points < -slack) | (points > np.resize([width + slack, height + slack], points.size))
    if not np.isfinite(points).all() or outside.any():
        raise ValueError(f"got a point outside the {width} x {height} pixels of the image")
    return [float(value) for value in points]


def inside_runs(runs: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels, bool [H, W], of COCO's run lengths, plain or as text; raises ValueError if they do not fill the image."""
    counts = runs["counts"]
    numbers = _numbers(counts) if isinstance(counts, str) else [int(count) for count in counts]
    height, width = size
    if [int(side) for side in runs["size"]] != [height, width] or min(numbers, default=-1) < 0:
        raise ValueError(f"got run lengths of {runs['size']}, expected the image's {height} x {width}")
    if sum(numbers) != height * width:
        raise ValueError(f"got run lengths of {sum(numbers)} pixels, expected {height * width}")
    values = np.arange(len(numbers)) % 2 == 1
    return np.repeat(values, numbers).reshape(width, height).T


def _numbers(text: str) -> list[int]:
    """COCO's text of run lengths: six bits per character; from the fourth number on, as differences."""
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise ValueError("got run lengths with an invalid character")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers


def with_background(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Class names with the background first, and the index that each of `names` has among them.

    If one of the names is a background it becomes that class. Pixels outside all regions are background.
    """
    backgrounds = [index for index, name in enumerate(names) if name.strip().lower().strip("_") == BACKGROUND]
    first = backgrounds[0] if backgrounds else None
    others = [index for index in range(len(names)) if index != first]
    places = {index: at for at, index in enumerate(others, 1)}
    return [BACKGROUND if first is None else names[first], *(names[i] for i in others)], [
        places.get(index, 0) for index in range(len(names))
    ]
