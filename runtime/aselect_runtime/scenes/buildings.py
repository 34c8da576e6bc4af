"""The objects along a street: houses, shops, fences and hedges."""

from __future__ import annotations

import numpy as np

from aselect_runtime.scenes.shapes import (
    BUILDING,
    FENCE,
    SIGN,
    TREE,
    Colour,
    Patch,
    Points,
    Thing,
    across,
    along,
    contour,
    grid,
    shade,
    thing,
)

FACADES: tuple[Colour, ...] = (
    (62, 78, 128), (84, 104, 150), (105, 140, 172), (150, 176, 198), (190, 202, 212), (128, 134, 140),
    (96, 112, 126), (70, 84, 104), (120, 158, 190), (206, 214, 220), (92, 98, 150), (150, 150, 146),
)  # fmt: skip
SHOPS: tuple[Colour, ...] = (
    (40, 40, 150), (120, 60, 30), (50, 100, 40), (40, 40, 44), (60, 170, 220), (150, 150, 160), (110, 40, 90),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((70, 66, 64), (58, 66, 98), (84, 86, 92), (60, 80, 120))
GLASS: tuple[Colour, ...] = ((78, 68, 58), (120, 108, 92), (56, 52, 48), (150, 138, 118))


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """One of the colours, slightly varied in brightness."""
    return shade(colours[int(rng.integers(len(colours)))], float(rng.uniform(0.82, 1.15)))


def building(rng: np.random.Generator, side: int, x: float, z0: float, z1: float, sunlit: float) -> Thing:
    """A house from `z0` to `z1` with its front at `x`; `sunlit` multiplies the front's colour."""
    storey = float(rng.uniform(2.7, 3.6))
    storeys = int(rng.choice([2, 2, 3, 3, 4, 5]))
    top = storey * storeys + float(rng.uniform(0.2, 0.9))
    wall = pick(rng, FACADES)
    front, end = shade(wall, sunlit), shade(wall, 0.72)
    depth = x + side * 9.0
    patches = [*_roof(rng, side, x, z0, z1, top, sunlit)]
    patches.append(Patch(across(z0, min(x, depth), max(x, depth), 0, top), end, BUILDING))
    patches.append(Patch(along(x, z0, z1, 0, top), front, BUILDING))
    patches += _windows(rng, x, z0, z1, storey, storeys, front)
    patches.append(Patch(along(x, z0, z1, top - 0.35, top), shade(front, 1.15), None))
    if rng.random() < 0.5:
        patches += _shop(rng, side, x, z0, z1, storey, sunlit)
    else:
        patches += _ground_floor(rng, x, z0, z1, storey, front)
    return thing(patches, order=z1)


def _roof(
    rng: np.random.Generator, side: int, x: float, z0: float, z1: float, top: float, sunlit: float
) -> list[Patch]:
    """A pitched roof with a chimney, or nothing."""
    if rng.random() < 0.35:
        return []
    ridge, rise = x + side * 4.5, top + float(rng.uniform(1.8, 3.4))
    tiles = shade(pick(rng, ROOFS), 0.6 + 0.5 * sunlit)
    slope = contour([(x, top, z0), (x, top, z1), (ridge, rise, z1), (ridge, rise, z0)])
    gable = contour([(x, top, z0), (ridge, rise, z0), (x + side * 9.0, top, z0)])
    middle = float(rng.uniform(z0 + 1, z1 - 1))
    stack = (90.0 * sunlit, 100.0 * sunlit, 140.0 * sunlit)
    return [
        Patch(along(ridge, middle, middle + 1.0, rise - 0.6, rise + 1.2), stack, BUILDING),
        Patch(across(middle, min(ridge, ridge + side), max(ridge, ridge + side), rise - 0.6, rise + 1.2),
              shade(stack, 0.7), BUILDING),
        Patch(gable, shade(tiles, 0.8), BUILDING),
        Patch(slope, tiles, BUILDING),
    ]  # fmt: skip


def _windows(
    rng: np.random.Generator, x: float, z0: float, z1: float, storey: float, storeys: int, front: Colour
) -> list[Patch]:
    """Rows of framed windows above the ground floor."""
    wide, high = float(rng.uniform(0.8, 1.7)), float(rng.uniform(1.2, 1.8))
    count = max(int((z1 - z0 - 0.8) / (wide + float(rng.uniform(0.7, 1.6)))), 1)
    pitch = (z1 - z0) / count
    zs = z0 + (np.arange(count) + 0.5) * pitch - wide / 2
    ys = storey * np.arange(1, storeys) + 0.8
    frame = (215.0, 222.0, 225.0) if rng.random() < 0.6 else shade(front, 0.7)
    glass = pick(rng, GLASS)
    return [
        Patch(grid(x, zs - 0.1, ys - 0.12, wide + 0.2, high + 0.24), frame, None),
        Patch(grid(x, zs, ys, wide, high), glass, None),
        Patch(grid(x, zs, ys + high * 0.55, wide, high * 0.4), shade(glass, 1.35), None),
        Patch(grid(x, zs, ys + high * 0.48, wide, 0.07), frame, None),
    ]


def _shop(
    rng: np.random.Generator, side: int, x: float, z0: float, z1: float, storey: float, sunlit: float
) -> list[Patch]:
    """A shop window under a coloured fascia, sometimes with a sign that projects over the pavement."""
    paint = shade(pick(rng, SHOPS), 0.5 + 0.5 * sunlit)
    count = max(int((z1 - z0) / 2.4), 1)
    pitch = (z1 - z0) / count
    panes = z0 + np.arange(count) * pitch + 0.2
    inner = panes[: max(count - 1, 1)] + 0.3
    lettering = along(x, z0 + (z1 - z0) * 0.25, z0 + (z1 - z0) * 0.75, storey - 0.5, storey - 0.25)
    patches = [
        Patch(along(x, z0 + 0.1, z1 - 0.1, 0, storey), shade(paint, 0.8), None),
        Patch(grid(x, panes, np.array([0.5]), pitch - 0.4, storey - 1.4), (66, 62, 58), None),
        Patch(grid(x, inner, np.array([0.7]), (pitch - 0.4) * 0.4, storey - 2.0), (120, 150, 160), None),
        Patch(along(x, z0 + 0.1, z1 - 0.1, storey - 0.75, storey - 0.05), paint, None),
        Patch(lettering, (225, 230, 232), None),
    ]
    if rng.random() < 0.5:
        z = float(rng.uniform(z0 + 0.5, z1 - 0.5))
        low, high = storey + 0.1, storey + float(rng.uniform(0.8, 1.5))
        inner_x, outer_x = sorted((x - side * 0.1, x - side * float(rng.uniform(0.7, 1.1))))
        patches.append(Patch(across(z, inner_x, outer_x, low, high), shade(pick(rng, SHOPS), 1.2), SIGN))
        middle = (low + high) / 2
        patches.append(Patch(across(z, inner_x + 0.12, outer_x - 0.12, middle - 0.12, middle + 0.12),
                             (230, 235, 238), None))  # fmt: skip
    return patches


def _ground_floor(
    rng: np.random.Generator, x: float, z0: float, z1: float, storey: float, front: Colour
) -> list[Patch]:
    """Doors and windows at street level."""
    count = max(int((z1 - z0) / 2.6), 1)
    zs = z0 + (np.arange(count) + 0.5) * (z1 - z0) / count - 0.5
    door = int(rng.integers(count))
    others = np.delete(zs, door)
    glass = pick(rng, GLASS)
    return [
        Patch(along(x, z0, z1, 0, 0.5), shade(front, 0.8), None),
        Patch(grid(x, others - 0.1, np.array([0.8]), 1.3, storey - 1.4), (210, 216, 220), None),
        Patch(grid(x, others, np.array([0.9]), 1.1, storey - 1.6), glass, None),
        Patch(along(x, zs[door] - 0.1, zs[door] + 1.1, 0, 2.3), (200, 206, 210), None),
        Patch(along(x, zs[door], zs[door] + 1.0, 0, 2.15), shade(pick(rng, SHOPS), 0.8), None),
    ]


def boards(rng: np.random.Generator, x: float, z0: float, z1: float, sunlit: float) -> Thing:
    """A wooden or brick garden fence."""
    high = float(rng.uniform(0.9, 1.9))
    colour = shade(pick(rng, ((70, 100, 130), (90, 110, 125), (110, 120, 128))), sunlit)
    posts = grid(x, np.arange(z0, z1 - 0.1, 1.8), np.array([0.0]), 0.14, high + 0.08)
    slats = grid(x, np.arange(z0 + 0.2, z1 - 0.05, 0.3), np.array([0.0]), 0.05, high)
    return thing(
        [
            Patch(along(x, z0, z1, 0, high), colour, FENCE),
            Patch(slats, shade(colour, 0.75), None),
            Patch(posts, shade(colour, 0.65), FENCE),
        ],
        order=z1,
    )


def railing(rng: np.random.Generator, x: float, z0: float, z1: float) -> Thing:
    """A metal railing: it is see-through, but its label covers the whole panel, as in annotated data sets."""
    high = float(rng.uniform(0.95, 1.2))
    colour = pick(rng, ((60, 62, 60), (120, 124, 126), (70, 90, 60)))
    bars: Points = grid(x, np.arange(z0, z1, 0.16), np.array([0.1]), 0.03, high - 0.1)
    return thing(
        [
            Patch(along(x, z0, z1, 0, high), None, FENCE),
            Patch(bars, colour, None),
            Patch(along(x, z0, z1, high - 0.07, high), colour, None),
            Patch(along(x, z0, z1, 0.1, 0.16), colour, None),
            Patch(along(x, z0, z0 + 0.08, 0, high + 0.05), shade(colour, 0.8), None),
        ]
    )


def hedge(rng: np.random.Generator, side: int, x: float, z0: float, z1: float, sunlit: float) -> Thing:
    """A clipped hedge."""
    high = float(rng.uniform(0.8, 2.2))
    green = shade(pick(rng, ((46, 92, 70), (44, 74, 58), (52, 100, 86))), sunlit)
    back = x + side * 1.2
    top = contour([(x, high, z0), (x, high, z1), (back, high * 1.05, z1), (back, high * 1.05, z0)])
    return thing(
        [
            Patch(across(z0, min(x, back), max(x, back), 0, high), shade(green, 0.7), TREE),
            Patch(top, shade(green, 1.25), TREE),
            Patch(along(x, z0, z1, 0, high), green, TREE),
            Patch(along(x, z0, z1, 0, high * 0.3), shade(green, 0.75), None),
        ],
        order=z1,
    )
