"""Objects on a pavement: trees, lamps, posts and signs."""

from __future__ import annotations

import numpy as np

from aselect_runtime.scenes.buildings import pick
from aselect_runtime.scenes.shapes import (
    POLE,
    SIGN,
    TREE,
    Colour,
    Patch,
    Points,
    Thing,
    across,
    contour,
    disc,
    limb,
    shade,
    thing,
)

LEAVES: tuple[Colour, ...] = ((40, 88, 62), (48, 104, 86), (36, 70, 58), (58, 118, 110), (44, 84, 92))
BARK: tuple[Colour, ...] = ((62, 72, 82), (78, 84, 92), (48, 56, 66))
STEEL: tuple[Colour, ...] = ((110, 112, 112), (150, 152, 150), (64, 70, 62), (84, 84, 84))


def _crown(rng: np.random.Generator, x: float, y: float, z: float, rx: float, ry: float) -> Points:
    """A ragged, star-shaped outline."""
    sides = 44
    angle = np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False)
    lobes = sum(rng.uniform(0.03, 0.1) * np.sin(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 5, 7))
    radius = 1.0 + lobes + rng.uniform(-0.07, 0.07, sides)
    ring = np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle), np.full(sides, z)], axis=1)
    return ring[None].astype(np.float32)


def _tufts(rng: np.random.Generator, centre: tuple[float, float, float], rx: float, ry: float, count: int) -> Points:
    """Small leafy triangles scattered over a crown."""
    angle, reach = rng.uniform(0, 6.28, count), np.sqrt(rng.uniform(0, 1.0, count))
    middle = np.stack([centre[0] + rx * reach * np.cos(angle), centre[1] + ry * reach * np.sin(angle)], axis=1)
    corners = rng.uniform(-1, 1, (count, 3, 2)) * (0.16 * rx, 0.16 * ry) + middle[:, None]
    depth = np.full((count, 3, 1), centre[2])
    return np.concatenate([corners, depth], axis=2).astype(np.float32)


def leafy_tree(rng: np.random.Generator, x: float, z: float, size: float, order: float | None = None) -> Thing:
    """A tree in leaf, `size` metres high."""
    rx, ry = size * float(rng.uniform(0.24, 0.36)), size * float(rng.uniform(0.28, 0.36))
    y = size - ry
    green, bark = pick(rng, LEAVES), pick(rng, BARK)
    trunk = size * 0.028
    lean = float(rng.uniform(-0.2, 0.2))
    stem = contour(
        [(x - trunk, 0, z), (x + trunk, 0, z), (x + lean + trunk * 0.6, y, z), (x + lean - trunk * 0.6, y, z)]
    )
    return thing(
        [
            Patch(stem, bark, TREE),
            Patch(_crown(rng, x, y, z, rx, ry), shade(green, 0.62), TREE),
            Patch(_tufts(rng, (x, y, z), rx * 1.12, ry * 1.12, 50), shade(green, 0.7), TREE),
            Patch(_crown(rng, x + 0.08 * rx, y + 0.16 * ry, z, rx * 0.8, ry * 0.76), shade(green, 0.9), None),
            Patch(_tufts(rng, (x, y, z), rx * 0.95, ry * 0.95, 60), shade(green, 0.74), None),
            Patch(_tufts(rng, (x + 0.15 * rx, y + 0.3 * ry, z), rx * 0.75, ry * 0.6, 50), shade(green, 1.25), None),
        ],
        order=order,
    )


def _branches(rng: np.random.Generator, x: float, size: float) -> list[tuple[float, float, float, float, float]]:
    """Bars (x0, y0, x1, y1, thickness) of a bare tree, trunk first."""
    bars = [(x, 0.0, x + float(rng.uniform(-0.15, 0.15)), size * 0.3, size * 0.05)]
    tips = [(bars[0][2], bars[0][3], 0.0, size * 0.26, size * 0.032)]
    for _ in range(4):
        grown: list[tuple[float, float, float, float, float]] = []
        for x0, y0, turn, length, thick in tips:
            for swing in (-0.5, 0.05, 0.5):
                angle = turn + swing + float(rng.uniform(-0.22, 0.22))
                reach = length * float(rng.uniform(0.7, 1.1))
                x1, y1 = x0 + reach * float(np.sin(angle)), y0 + reach * float(np.cos(angle))
                bars.append((x0, y0, x1, y1, thick))
                grown.append((x1, y1, angle, length * 0.68, thick * 0.58))
        tips = grown
    return bars


def bare_tree(rng: np.random.Generator, x: float, z: float, size: float, order: float | None = None) -> Thing:
    """A tree in winter; twigs are labelled wider than they are, as in annotated data sets."""
    bars = _branches(rng, x, size)
    bark = shade(pick(rng, BARK), 0.8)
    twigs = bars[40:]
    boughs = [
        Patch(np.concatenate([limb((a, b), (c, d), t, z) for a, b, c, d, t in part]), bark, TREE)
        for part in (bars[4:13], bars[1:4], bars[:1])
    ]
    middle = np.concatenate([limb((a, b), (c, d), max(t, 0.04), z) for a, b, c, d, t in bars[13:40]])
    fine = np.concatenate([limb((a, b), (c, d), 0.03, z) for a, b, c, d, _ in twigs])
    halo = [
        Patch(np.concatenate([limb((a, b), (c, d), 0.2, z) for a, b, c, d, _ in twigs[k::3]]), None, TREE)
        for k in range(3)
    ]
    return thing(
        [*halo, Patch(fine, shade(bark, 1.15), None), Patch(middle, bark, None), Patch(middle, None, TREE), *boughs],
        order=order,
    )


def lamp(rng: np.random.Generator, side: int, x: float, z: float) -> Thing:
    """A street lamp whose arm reaches over the road."""
    steel = pick(rng, STEEL)
    high, arm = float(rng.uniform(5.5, 8.5)), float(rng.uniform(0.9, 1.9))
    tip = x - side * arm
    return thing(
        [
            Patch(across(z, x - 0.11, x + 0.11, 0, 1.2), shade(steel, 0.9), POLE),
            Patch(across(z, x - 0.07, x + 0.07, 1.2, high), steel, POLE),
            Patch(across(z, x + 0.02, x + 0.07, 0, high), shade(steel, 0.7), None),
            Patch(limb((x, high - 0.05), (tip, high + 0.25), 0.1, z), steel, POLE),
            Patch(limb((tip + side * 0.3, high + 0.2), (tip - side * 0.35, high + 0.24), 0.18, z),
                  shade(steel, 1.3), POLE),
        ]
    )  # fmt: skip


def sign(rng: np.random.Generator, x: float, z: float) -> Thing:
    """A traffic sign on a post: round, triangular or rectangular."""
    steel = pick(rng, STEEL)
    y, r = float(rng.uniform(2.1, 2.8)), float(rng.uniform(0.3, 0.45))
    post = Patch(across(z, x - 0.045, x + 0.045, 0, y), steel, POLE)
    red, blue, white = (40, 36, 190), (170, 80, 30), (228, 230, 232)
    kind = int(rng.integers(4))
    if kind == 0:
        plate = [Patch(disc(x, y, z, r, r), red, SIGN), Patch(disc(x, y, z, r * 0.72, r * 0.72), white, None)]
    elif kind == 1:
        corners = [(x - r, y - r * 0.8, z), (x + r, y - r * 0.8, z), (x, y + r, z)]
        inner = [(x - r * 0.6, y - r * 0.56, z), (x + r * 0.6, y - r * 0.56, z), (x, y + r * 0.55, z)]
        plate = [Patch(contour(corners), red, SIGN), Patch(contour(inner), white, None)]
    elif kind == 2:
        plate = [
            Patch(disc(x, y, z, r, r), blue, SIGN),
            Patch(limb((x, y - r * 0.5), (x, y + r * 0.5), 0.12, z), white, None),
        ]
    else:
        wide = float(rng.uniform(0.4, 0.9))
        back = (96, 120, 40) if rng.random() < 0.5 else blue
        plate = [
            Patch(across(z, x - wide, x + wide, y - r, y + r), back, SIGN),
            Patch(across(z, x - wide * 0.7, x + wide * 0.6, y + r * 0.2, y + r * 0.45), white, None),
            Patch(across(z, x - wide * 0.7, x + wide * 0.3, y - r * 0.4, y - r * 0.15), white, None),
        ]
    return thing([post, *plate])


def traffic_light(rng: np.random.Generator, x: float, z: float) -> Thing:
    """A signal head on a post."""
    lit = int(rng.integers(3))
    glow: tuple[Colour, ...] = ((60, 50, 250), (60, 190, 255), (150, 250, 90))
    off: Colour = (38, 38, 40)
    lamps = [Patch(disc(x, 3.1 - 0.3 * k, z, 0.11, 0.11, 8), glow[k] if k == lit else off, None) for k in range(3)]
    return thing(
        [
            Patch(across(z, x - 0.06, x + 0.06, 0, 2.4), (70, 72, 74), POLE),
            Patch(across(z, x - 0.26, x + 0.26, 2.25, 3.4), (28, 28, 28), SIGN),
            *lamps,
        ]
    )


def post(rng: np.random.Generator, x: float, z: float) -> Thing:
    """A bollard or a tall bare pole."""
    high = 0.95 if rng.random() < 0.6 else float(rng.uniform(4.0, 7.5))
    steel = pick(rng, STEEL)
    half = 0.08
    return thing(
        [
            Patch(across(z, x - half, x + half, 0, high), steel, POLE),
            Patch(across(z, x - half, x + half, high * 0.8, high * 0.87), (220, 224, 226), None),
        ]
    )
