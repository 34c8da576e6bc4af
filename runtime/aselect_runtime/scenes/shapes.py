"""Coloured polygons in street coordinates, and the records that hold them.

Street coordinates are metres: ``x`` to the right of the centre line, ``y`` up from the road, ``z`` along the street.
Every object in a street is a :class:`Thing`, which consists of flat polygons only, so that one function draws walls,
cars and people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Colour = tuple[float, float, float]

# Contours of at most this many points cross any horizontal line at most twice, so that they can be filled fastest.
MONOTONE = 14

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)


class Patch(NamedTuple):
    """`contours` [K, N, 3] in one colour (BGR, None: label only) and one class (None: image only).

    Contours of one patch must not overlap: they are filled together, even-odd.
    """

    contours: Points
    colour: Colour | None
    label: int | None


class Run(NamedTuple):
    """The range of one patch in its thing's points."""

    start: int
    stop: int
    shape: tuple[int, int, int]
    colour: Colour | None
    label: int | None
    detail: float  # metres: the narrow side of one contour, or infinite if the patch has a label


class Thing(NamedTuple):
    """A group of patches that are drawn in this order; things are drawn by decreasing `order` (metres).

    `near` and `far` are its smallest and largest z.
    """

    points: Points
    runs: tuple[Run, ...]
    order: float
    near: float
    far: float

    def at(self, x: float, z: float) -> Thing:
        """A copy moved by `x` and `z` metres."""
        shift = np.array((x, 0.0, z), np.float32)
        return Thing(self.points + shift, self.runs, self.order + z, self.near + z, self.far + z)


def thing(patches: Iterable[Patch], order: float | None = None) -> Thing:
    """Pack patches; `order` is the smallest z unless given."""
    kept = [patch for patch in patches if len(patch.contours)]
    runs: list[Run] = []
    start = 0
    for contours, colour, label in kept:
        stop = start + contours.shape[0] * contours.shape[1]
        shape = (contours.shape[0], contours.shape[1], 2)
        runs.append(Run(start, stop, shape, colour, label, _narrow(contours[0]) if label is None else np.inf))
        start = stop
    points = np.concatenate([patch.contours.reshape(-1, 3) for patch in kept])
    near, far = float(points[:, 2].min()), float(points[:, 2].max())
    return Thing(points, tuple(runs), near if order is None else order, near, far)


def _narrow(outline: Points) -> float:
    """The shorter of the two sides of the box around a flat outline [N, 3]."""
    columns = outline.T.tolist()
    return float(sorted(max(column) - min(column) for column in columns)[1])


def contour(points: Sequence[tuple[float, float, float]]) -> Points:
    """One contour [1, N, 3]."""
    return np.array([points], np.float32)


def across(z: float, x0: float, x1: float, y0: float, y1: float) -> Points:
    """A rectangle that faces the camera, at depth `z`."""
    return contour([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])


def along(x: float, z0: float, z1: float, y0: float, y1: float) -> Points:
    """A rectangle that faces the street's middle, at offset `x`."""
    return contour([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)])


def flat(x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> Points:
    """A rectangle that lies on the ground."""
    return contour([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)])


def disc(x: float, y: float, z: float, rx: float, ry: float, sides: int = 12) -> Points:
    """An ellipse that faces the camera."""
    angle = np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False)
    ring = np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle), np.full(sides, z)], axis=1)
    return ring[None].astype(np.float32)


def wheel(x: float, y: float, z: float, radius: float, sides: int = 14) -> Points:
    """A circle that faces the street's middle."""
    angle = np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False)
    ring = np.stack([np.full(sides, x), y + radius * np.sin(angle), z + radius * np.cos(angle)], axis=1)
    return ring[None].astype(np.float32)


def limb(start: tuple[float, float], end: tuple[float, float], thick: float, z: float) -> Points:
    """A bar from `start` to `end` (x, y) that faces the camera."""
    (x0, y0), (x1, y1) = start, end
    length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-3)
    nx, ny = -(y1 - y0) / length * thick / 2, (x1 - x0) / length * thick / 2
    return contour([(x0 + nx, y0 + ny, z), (x1 + nx, y1 + ny, z), (x1 - nx, y1 - ny, z), (x0 - nx, y0 - ny, z)])


def grid(x: float, zs: NDArray[np.floating], ys: NDArray[np.floating], wide: float, high: float) -> Points:
    """Equal rectangles [len(zs) * len(ys), 4, 3] on the wall at `x`, each `wide` by `high` from its lower corner."""
    z, y = (part.ravel() for part in np.meshgrid(zs, ys))
    corners = np.empty((z.size, 4, 3), np.float32)
    corners[..., 0] = x
    corners[..., 1] = y[:, None] + np.array((0.0, 0.0, high, high))
    corners[..., 2] = z[:, None] + np.array((0.0, wide, wide, 0.0))
    return corners


def shade(colour: Colour, factor: float) -> Colour:
    """The colour multiplied by `factor`, at most 255."""
    return (min(colour[0] * factor, 255.0), min(colour[1] * factor, 255.0), min(colour[2] * factor, 255.0))
