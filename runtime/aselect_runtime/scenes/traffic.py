"""Moving objects: cars, pedestrians and cyclists. Each is built at the origin and then moved."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from aselect_runtime.scenes.buildings import pick
from aselect_runtime.scenes.shapes import (
    BICYCLIST,
    CAR,
    PEDESTRIAN,
    Colour,
    Patch,
    Points,
    Thing,
    across,
    along,
    contour,
    disc,
    flat,
    limb,
    shade,
    thing,
    wheel,
)

PAINTS: tuple[Colour, ...] = (
    (190, 192, 194), (120, 122, 126), (48, 48, 50), (224, 226, 228), (44, 40, 150), (128, 66, 34),
    (70, 74, 80), (96, 112, 60), (150, 140, 120), (60, 90, 120),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (50, 48, 46), (110, 70, 50), (60, 60, 140), (150, 150, 150), (90, 110, 120), (40, 60, 40), (200, 200, 205),
    (140, 100, 60), (60, 140, 190),
)  # fmt: skip
SKIN: tuple[Colour, ...] = ((130, 160, 205), (90, 120, 165), (60, 80, 115))
GLASS: Colour = (62, 56, 50)
TYRE: Colour = (30, 30, 32)
POSES = 8
TUCK = 0.82  # how much narrower the roof is than the body

# Side outlines as (share of length from the rear, share of height): sill, boot, rear window, roof, windscreen, bonnet.
_SALOON = ((0.0, 0.2), (0.0, 0.6), (0.06, 0.66), (0.2, 0.98), (0.6, 1.0), (0.76, 0.66), (1.0, 0.52), (1.0, 0.2))
_HATCH = ((0.0, 0.2), (0.0, 0.58), (0.03, 0.62), (0.12, 0.98), (0.6, 1.0), (0.78, 0.64), (1.0, 0.52), (1.0, 0.2))
_VAN = ((0.0, 0.18), (0.0, 0.5), (0.0, 0.55), (0.02, 0.98), (0.76, 1.0), (0.88, 0.6), (1.0, 0.46), (1.0, 0.18))
_SIZES = ((_SALOON, 4.5, 1.78, 1.45), (_HATCH, 3.9, 1.7, 1.48), (_HATCH, 4.4, 1.85, 1.72), (_VAN, 5.3, 2.0, 2.3))


def _outline(rng: np.random.Generator, away: bool) -> tuple[list[tuple[float, float]], float, float, float]:
    """Side outline as (z, y) from the end that faces the camera, then length, width and height."""
    kind = int(rng.choice(4, p=[0.35, 0.35, 0.18, 0.12]))
    shape, length, width, height = _SIZES[kind]
    points = [(share * length, rise * height) for share, rise in shape]
    if not away:
        points = [(length - z, y) for z, y in reversed(points)]
    return points, length, width, height


def car(rng: np.random.Generator, side: int, away: bool) -> Thing:
    """A car with its near end at the origin, seen from its `side` towards the street's middle.

    `side` is its position as seen from the camera (-1 left, 1 right, 0 straight ahead); `away` shows its rear.
    """
    outline, length, width, height = _outline(rng, away)
    paint = pick(rng, PAINTS)
    half = width / 2
    dark = flat(-half - 0.12, half + 0.12, -0.25, length + 0.1)
    patches = [Patch(dark, (34, 34, 36), None), _tyres(half)]
    for (z0, y0), (z1, y1) in reversed(list(itertools.pairwise(outline))):
        w0, w1 = (half * (TUCK if y > 0.9 * height else 1.0) for y in (y0, y1))
        face = contour([(-w0, y0, z0), (w0, y0, z0), (w1, y1, z1), (-w1, y1, z1)])
        if abs(y1 - y0) > 0.3 and max(y0, y1) > 0.9 * height:
            rim = 0.86
            glass = contour(
                [(-w0 * rim, y0, z0), (w0 * rim, y0, z0), (w1 * rim, y1 - 0.06, z1), (-w1 * rim, y1 - 0.06, z1)]
            )
            patches += [Patch(face, shade(paint, 0.85), CAR), Patch(glass, shade(GLASS, 1.5), None)]
        else:
            patches.append(Patch(face, shade(paint, 1.12 if abs(y1 - y0) < 0.2 else 0.82), CAR))
    patches += _end(half, outline, away, paint)
    if side:
        patches += _flank(-side * half, outline, length, height, paint)
    return thing(patches)


def _tyres(half: float) -> Patch:
    """The tyres that are visible under the near end."""
    low = np.concatenate([across(0.35, -half, -half + 0.24, 0, 0.4), across(0.35, half - 0.24, half, 0, 0.4)])
    return Patch(low, TYRE, CAR)


def _end(half: float, outline: list[tuple[float, float]], away: bool, paint: Colour) -> list[Patch]:
    """Bumper, lights and number plate on the end that faces the camera."""
    low, high = sorted((outline[0][1], outline[1][1]))
    light: Colour = (40, 36, 190) if away else (225, 232, 235)
    plate: Colour = (90, 200, 225) if away else (220, 225, 228)
    top = high - 0.05
    lamps = np.concatenate(
        [across(0, -half * 0.95, -half * 0.68, top - 0.18, top), across(0, half * 0.68, half * 0.95, top - 0.18, top)]
    )
    return [
        Patch(across(0, -half, half, low - 0.02, low + 0.2), shade(paint, 0.5), CAR),
        Patch(lamps, light, None),
        Patch(across(0, -0.27, 0.27, low + 0.22, low + 0.34), plate, None),
    ]


def _flank(x: float, outline: list[tuple[float, float]], length: float, height: float, paint: Colour) -> list[Patch]:
    """The side that faces the street's middle, with windows and wheels."""
    belt = 0.62 * height
    roof = x * TUCK
    body = contour([(roof if y > 0.9 * height else x, y, z) for z, y in outline])
    cabin = [(z, y) for z, y in outline if y > 0.9 * height]
    (za, ya), (zb, yb) = cabin[0], cabin[-1]
    drop = 0.08 * length
    glass = contour(
        [(x, belt, za - drop * 0.6), (roof, ya - 0.1, za + 0.1), (roof, yb - 0.1, zb - 0.1), (x, belt, zb + drop)]
    )
    pillar = (za + zb) / 2
    patches = [
        Patch(body, paint, CAR),
        Patch(along(x, 0.05 * length, 0.95 * length, 0.18 * height, 0.3 * height), shade(paint, 0.7), None),
        Patch(glass, GLASS, None),
        Patch(
            contour(
                [
                    (x, belt, pillar - 0.06),
                    (roof, ya - 0.1, pillar - 0.06),
                    (roof, ya - 0.1, pillar + 0.06),
                    (x, belt, pillar + 0.06),
                ]
            ),
            paint,
            None,
        ),
    ]
    for z in (0.19 * length, 0.8 * length):
        patches.append(Patch(wheel(x, 0.32, z, 0.34), TYRE, CAR))
        patches.append(Patch(wheel(x, 0.32, z, 0.19, 10), (140, 142, 144), None))
    return patches


def _person(rng: np.random.Generator, label: int, phase: float, lift: float, stride: float) -> list[Patch]:
    """Legs, trunk, arms and head of a person at the origin; `lift` raises the hips (a rider's saddle)."""
    size = float(rng.uniform(0.9, 1.06))
    top, trousers, skin = pick(rng, CLOTHES), pick(rng, CLOTHES[:6]), pick(rng, SKIN)
    hair = pick(rng, ((30, 34, 40), (50, 70, 100), (120, 140, 150)))
    hip, shoulder, head = 0.88 * size + lift, 1.45 * size + lift, 1.64 * size + lift
    swing = stride * float(np.sin(phase))
    bob = 0.02 * float(np.cos(2 * phase))
    wide = float(rng.uniform(0.19, 0.25))
    waist, neck, chest = wide * 0.8, wide * 0.4, shoulder + bob
    trunk = contour(
        [
            (-waist, hip, 0),
            (waist, hip, 0),
            (wide, chest, 0),
            (neck, chest + 0.08, 0),
            (-neck, chest + 0.08, 0),
            (-wide, chest, 0),
        ]
    )
    hand = wide + 0.06 + swing * 0.6
    foot = 0.0 if not lift else lift + 0.1
    return [
        Patch(limb((-0.07, hip), (-0.07 + swing, foot + max(0.0, swing) * 0.3), 0.17, 0), shade(trousers, 0.85), label),
        Patch(limb((0.07, hip), (0.07 - swing, foot + max(0.0, -swing) * 0.3), 0.17, 0), trousers, label),
        Patch(limb((-wide, shoulder - 0.03), (-hand, hip + 0.05), 0.11, 0), shade(top, 0.8), label),
        Patch(limb((wide, shoulder - 0.03), (hand, hip + 0.05), 0.11, 0), shade(top, 0.9), label),
        Patch(trunk, top, label),
        Patch(disc(0, head + bob, 0, 0.11, 0.145, 10), skin, label),
        Patch(disc(0, head + 0.05 + bob, 0, 0.115, 0.11, 10), hair, label),
    ]  # fmt: skip


@functools.lru_cache(maxsize=1024)
def walker(seed: int, pose: int) -> Thing:
    """Person `seed` at step `pose` of :data:`POSES`; a quarter of them stand still."""
    rng = np.random.default_rng((seed, 11))
    stride = 0.0 if rng.random() < 0.25 else 0.24
    return thing(_person(rng, PEDESTRIAN, 2 * np.pi * pose / POSES, 0.0, stride))


@functools.lru_cache(maxsize=512)
def rider(seed: int, pose: int) -> Thing:
    """Cyclist `seed` at turn `pose` of :data:`POSES` of the pedals, riding along the street."""
    rng = np.random.default_rng((seed, 12))
    frame = pick(rng, PAINTS)
    helmet = pick(rng, CLOTHES)
    hubs = (-0.5, 0.55)
    wheels: list[Patch] = []
    for z in reversed(hubs):
        wheels.append(Patch(across(z - 0.3, -0.035, 0.035, 0, 0.68), TYRE, BICYCLIST))
        wheels.append(Patch(wheel(0.0, 0.34, z, 0.35), None, BICYCLIST))
        wheels.append(Patch(_ring(0.34, z, 0.35, 0.29), TYRE, None))
    bars = [
        Patch(contour([(0, 0.34, -0.5), (0, 0.42, -0.5), (0, 0.95, 0.4), (0, 0.87, 0.4)]), frame, BICYCLIST),
        Patch(across(0.45, -0.28, 0.28, 0.98, 1.04), TYRE, BICYCLIST),
    ]
    body = _person(rng, BICYCLIST, 2 * np.pi * pose / POSES, 0.12, 0.06)
    crown = float(body[-1].contours[..., 1].max())
    body.append(Patch(disc(0, crown - 0.05, 0, 0.14, 0.1, 10), helmet, BICYCLIST))
    body.append(Patch(across(-0.5, -0.05, 0.05, 0.6, 0.7), (40, 36, 200), None))
    return thing([*wheels, *bars, *body])


def _ring(y: float, z: float, outer: float, inner: float) -> Points:
    """A rim that faces sideways, as one contour: the outer circle, then the inner one backwards."""
    angle = np.linspace(0.0, 2.0 * np.pi, 13)
    there = np.stack([np.zeros(13), y + outer * np.sin(angle), z + outer * np.cos(angle)], axis=1)
    back = np.stack([np.zeros(13), y + inner * np.sin(angle), z + inner * np.cos(angle)], axis=1)[::-1]
    return np.concatenate([there, back])[None].astype(np.float32)
