"""The positions of all objects: the fixed ones of a street, chunk by chunk, and the traffic at one moment.

Every chunk and every member of a traffic stream has its own random seed, so any moment of a street can be rendered
without the moments before it.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from aselect_runtime.scenes import buildings, furniture, traffic
from aselect_runtime.scenes.look import Look, look_of
from aselect_runtime.scenes.shapes import ROAD, Colour, Patch, Points, Thing, flat, shade, thing

CHUNK = 24.0
WHITE: Colour = (205, 210, 212)
YELLOW: Colour = (70, 170, 205)


class Chunk(NamedTuple):
    """24 m of street: markings on the ground, objects, and shadows on the ground."""

    markings: Thing
    things: tuple[Thing, ...]
    shadows: Points


def _sunlit(look: Look, side: int) -> float:
    """Brightness factor of the fronts on `side`."""
    return 1.0 + look.sun * (0.2 if side != look.sun_side else -0.42)


def _moved(items: list[Thing], z: float) -> list[Thing]:
    return [item.at(0.0, z) for item in items]


def _row(look: Look, rng: np.random.Generator, side: int) -> tuple[list[Thing], float]:
    """A closed row of houses, and their approximate height in metres for the shadow."""
    cuts = [0.0, float(rng.uniform(8, 16)), CHUNK] if rng.random() < 0.7 else [0.0, 7.5, 16.0, CHUNK]
    x = look.front(side) + side * 0.1
    light = _sunlit(look, side)
    return [buildings.building(rng, side, x, a, b, light) for a, b in itertools.pairwise(cuts)], 8.5


def _houses(look: Look, rng: np.random.Generator, side: int) -> tuple[list[Thing], float]:
    """Two houses behind gardens and a fence or hedge, and their approximate height in metres."""
    x, light = look.front(side), _sunlit(look, side)
    back = x + side * float(rng.uniform(2.5, 6.0))
    split = float(rng.uniform(9, 13))
    items = [
        buildings.building(rng, side, back, 0.5, split, light),
        buildings.building(rng, side, back, split + float(rng.uniform(0.5, 3.0)), CHUNK - 0.5, light),
    ]
    edge = x + side * 0.2
    for z in np.arange(0.0, CHUNK, 6.0):
        if rng.random() < 0.12:
            continue
        if rng.random() < 0.45:
            items.append(buildings.hedge(rng, side, edge, float(z), float(z) + 6.0, light))
        else:
            items.append(buildings.boards(rng, edge, float(z), float(z) + 6.0, light))
    if rng.random() < 0.5:
        items.append(_tree(look, rng, x + side * 1.6, float(rng.uniform(2, 22)), order=CHUNK - 0.2))
    return items, 5.0


def _park(look: Look, rng: np.random.Generator, side: int) -> tuple[list[Thing], float]:
    """Trees behind a railing, a fence or a hedge, and their approximate height in metres."""
    x, light = look.front(side), _sunlit(look, side)
    items = []
    for _ in range(int(rng.integers(3, 7))):
        z, offset = float(rng.uniform(0, CHUNK)), float(rng.uniform(2.5, 14.0))
        items.append(_tree(look, rng, x + side * offset, z, order=CHUNK + 0.1 + 0.01 * z + offset * 0.1))
    kind = rng.random()
    edge = x + side * 0.2
    for z in np.arange(0.0, CHUNK, 3.0):
        if kind < 0.3:
            items.append(buildings.railing(rng, edge, float(z), float(z) + 3.0))
        elif kind < 0.55:
            items.append(buildings.hedge(rng, side, edge, float(z), float(z) + 3.0, light))
        elif kind < 0.75:
            items.append(buildings.boards(rng, edge, float(z), float(z) + 3.0, light))
    return items, 3.0


def _tree(look: Look, rng: np.random.Generator, x: float, z: float, order: float | None = None) -> Thing:
    build = furniture.bare_tree if rng.random() < look.bare_trees else furniture.leafy_tree
    return build(rng, x, z, float(rng.uniform(5.5, 13.0)), order)


def _pavement(look: Look, rng: np.random.Generator, side: int, number: int) -> list[Thing]:
    """Lamps, trees, signs and railings on the pavement, parked cars at the kerb."""
    kerb, wide = look.kerb(side), look.pavement[side > 0]
    near = kerb + side * 0.45
    items = []
    if (number + (side > 0)) % 2 == 0:
        items.append(furniture.lamp(rng, side, near, 4.0))
    if rng.random() < look.greenery * 0.8 and wide > 2.2:
        items.append(_tree(look, rng, kerb + side * 0.9, float(rng.uniform(8, 22))))
    if rng.random() < 0.7:
        items.append(furniture.sign(rng, near, float(rng.uniform(5, 23))))
    if rng.random() < 0.3:
        items.append(furniture.post(rng, near, float(rng.uniform(1, 23))))
    if rng.random() < 0.12:
        items.append(furniture.traffic_light(rng, near, float(rng.uniform(10, 20))))
    if rng.random() < 0.1:
        style = int(rng.integers(2**31))
        edge = kerb + side * 0.3
        items.extend(
            buildings.railing(np.random.default_rng(style), edge, float(z), float(z) + 3.0)
            for z in np.arange(0.0, CHUNK, 3.0)
        )
    if rng.random() < look.crowd:
        x, z = kerb + side * float(rng.uniform(0.8, wide - 0.3)), float(rng.uniform(0, CHUNK))
        items.append(traffic.walker(int(rng.integers(2**31)), 0).at(x, z))
    if look.parking[side > 0]:
        z = float(rng.uniform(0.0, 3.0))
        while z < CHUNK - 5.5:
            if rng.random() < 0.75:
                items.append(traffic.car(rng, side, away=(side * look.ego_x > 0)).at(kerb - side * 1.1, z))
            z += float(rng.uniform(5.8, 7.5))
    return items


def _markings(look: Look, rng: np.random.Generator, number: int) -> Thing:
    """Centre line, lines along the kerb, patches in the asphalt and sometimes a zebra crossing."""
    left, right = look.kerb(-1), look.kerb(1)
    dash = 2.0 if look.seed % 2 else 4.0
    dashes = np.concatenate([flat(-0.06, 0.06, z, z + dash) for z in np.arange(0.0, CHUNK, 6.0 if dash < 3 else 8.0)])
    patches = []
    for _ in range(int(rng.integers(0, 3))):
        x, z = float(rng.uniform(left, right - 1.5)), float(rng.uniform(0, CHUNK - 6))
        tone = shade(look.asphalt, float(rng.uniform(0.78, 1.12)))
        patches.append(Patch(flat(x, x + float(rng.uniform(0.6, 1.5)), z, z + float(rng.uniform(1, 6))), tone, None))
    if rng.random() < 0.3:
        x, z = float(rng.uniform(left + 0.8, right - 0.8)), float(rng.uniform(1, CHUNK - 2))
        patches.append(Patch(flat(x - 0.3, x + 0.3, z, z + 0.6), shade(look.asphalt, 0.62), None))
    patches.append(Patch(dashes, WHITE, None))
    if look.seed % 3:
        tone = YELLOW if look.seed % 3 == 1 else WHITE
        gaps = (0.3, 0.5) if look.seed % 3 == 1 else (0.35,)
        for gap in gaps:
            for side in (-1, 1):
                x = look.kerb(side) - side * gap
                patches.append(Patch(flat(x - 0.05, x + 0.05, 0.0, CHUNK), tone, None))
    if rng.random() < 0.1 and number > 1:
        bars = np.concatenate([flat(x, x + 0.5, 10.0, 13.0) for x in np.arange(left + 0.3, right - 0.5, 1.0)])
        patches.append(Patch(bars, WHITE, ROAD))
    return thing(patches)


@functools.lru_cache(maxsize=256)
def chunk(seed: int, number: int) -> Chunk:
    """The 24 m of street `seed` from ``z = 24 * number`` on, in street coordinates."""
    look = look_of(seed)
    rng = np.random.default_rng((seed, 2, number + 2**20))
    items: list[Thing] = []
    shadows = []
    z = number * CHUNK
    for side in (-1, 1):
        draw = rng.random()
        build = _row if draw < look.town else _park if draw < look.town + (1 - look.town) * look.greenery else _houses
        row, height = build(look, rng, side)
        items += row + _pavement(look, rng, side, number)
        if side == look.sun_side:
            front = look.front(side)
            reach = front - side * (height * 0.55 + float(rng.uniform(-1, 1)))
            shadows.append(flat(min(front, reach), max(front, reach), z, z + CHUNK - float(rng.choice([0.0, 2.0]))))
    return Chunk(
        markings=_markings(look, rng, number).at(0.0, z),
        things=tuple(_moved(items, z)),
        shadows=np.concatenate(shadows),
    )


class Member(NamedTuple):
    """One member of a traffic stream: the seed of its appearance and uniform random numbers from 0 to 1."""

    seed: int
    chance: float
    gap: float
    offset: float
    phase: float


@functools.lru_cache(maxsize=4096)
def _member(seed: int, stream: int, number: int) -> Member:
    rng = np.random.default_rng((seed, 3, stream, number + 2**20))
    return Member(int(rng.integers(2**31)), *rng.random(4).tolist())


@functools.lru_cache(maxsize=512)
def _vehicle(seed: int, side: int, away: bool) -> Thing:
    return traffic.car(np.random.default_rng((seed, 13)), side, away)


def movers(look: Look, time: float, near: float, far: float) -> list[Thing]:
    """Traffic between `near` and `far` (metres along the street) at `time` (seconds)."""
    found = _ahead(look, time)
    drive = 1 if look.ego_x > 0 else -1
    found += _stream(look, 1, time, near, far, speed=-look.speed * 0.9, gap=38.0, kind="oncoming", side=-drive)
    found += _stream(look, 2, time, near, far, speed=look.speed * 0.45, gap=34.0, kind="rider", side=drive)
    found += _stream(look, 3, time, near, far, speed=-4.2, gap=60.0, kind="rider", side=-drive)
    for stream, side, speed in ((4, -1, 1.3), (5, -1, -1.2), (6, 1, 1.25), (7, 1, -1.35)):
        found += _stream(look, stream, time, near, far, speed=speed, gap=13.0, kind="walker", side=side)
    return found


def _ahead(look: Look, time: float) -> list[Thing]:
    """The car in front, whose distance varies slowly; on some streets there is none."""
    member = _member(look.seed, 0, 0)
    if member.chance < 0.3:
        return []
    gap = 9.0 + 13.0 * member.gap + 3.0 * math.sin(0.4 * time + 6.28 * member.phase)
    return [_vehicle(member.seed, 0, True).at(look.ego_x, look.speed * time + gap)]


def _stream(
    look: Look, stream: int, time: float, near: float, far: float, *, speed: float, gap: float, kind: str, side: int
) -> list[Thing]:
    """The members of an endless traffic stream, at most one every `gap` metres, between `near` and `far`."""
    first, last = (math.floor((z - speed * time) / gap) for z in (near, far))
    chance = {"oncoming": 0.6, "rider": 0.4, "walker": look.crowd}[kind]
    kerb, wide = look.kerb(side), look.pavement[side > 0]
    found = []
    for number in range(first, last + 1):
        member = _member(look.seed, stream, number)
        if member.chance > chance:
            continue
        z = (number + 0.6 * member.gap) * gap + speed * time
        pose = int(time * 8 + member.phase * traffic.POSES) % traffic.POSES
        if kind == "oncoming":
            found.append(_vehicle(member.seed, side, False).at(-look.ego_x, z))
        elif kind == "rider":
            found.append(traffic.rider(member.seed, pose).at(side * (look.lane - 0.35 - 0.45 * member.offset), z))
        else:
            x = kerb + side * (0.7 + (wide - 1.0) * member.offset)
            found.append(traffic.walker(member.seed, pose).at(x, z))
    return found
