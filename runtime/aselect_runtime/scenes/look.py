"""The constants of one street: layout, camera, weather and light, drawn at random from the seed."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from aselect_runtime.scenes.shapes import Colour


@dataclass(frozen=True)
class Look:
    """One street's constants; lengths in metres, speeds in m/s, colours BGR, focal and horizon in frame heights."""

    seed: int
    lane: float
    parking: tuple[bool, bool]
    pavement: tuple[float, float]
    ego_x: float
    speed: float
    camera_height: float
    focal: float
    horizon: float
    bend: tuple[float, float, float]
    town: float
    greenery: float
    crowd: float
    bare_trees: float
    sun_side: float
    sun: float
    light: Colour
    zenith: Colour
    haze: Colour
    visibility: float
    clouds: float
    asphalt: Colour
    paving: Colour
    blur: float
    noise: float

    def kerb(self, side: int) -> float:
        """Offset of the kerb on `side` (-1 left, 1 right)."""
        return side * (self.lane + (2.2 if self.parking[side > 0] else 0.0))

    def front(self, side: int) -> float:
        """Offset where the pavement ends on `side`."""
        return self.kerb(side) + side * self.pavement[side > 0]

    def centre(self, z: float) -> tuple[float, float]:
        """Offset and slope of the bent centre line at `z`."""
        swing, length, phase = self.bend
        return swing * float(np.sin(z / length + phase)), swing / length * float(np.cos(z / length + phase))


def _sky(rng: np.random.Generator, hour: float) -> tuple[Colour, Colour, float]:
    """Zenith colour, haze colour and share of cloud, for an hour from 0 (dusk) to 1 (noon)."""
    overcast = rng.random() < 0.45
    cloud = float(rng.uniform(0.6, 1.0) if overcast else rng.uniform(0.0, 0.6))
    level = 0.45 + 0.55 * hour
    if overcast:
        grey = float(rng.uniform(195, 253)) * level
        return (grey, grey * 0.98, grey * 0.96), (min(grey * 1.05, 255.0), grey * 1.02, grey), cloud
    warm = (1.0 - hour) * float(rng.uniform(0.0, 1.0))
    zenith = (225 * level, float(rng.uniform(140, 185)) * level, float(rng.uniform(80, 130)) * level)
    haze = (250 * level * (1 - 0.35 * warm), 238 * level * (1 - 0.1 * warm), min(255.0, 230 * level * (1 + 0.3 * warm)))
    return zenith, haze, cloud


@functools.lru_cache(maxsize=64)
def look_of(seed: int) -> Look:
    """The constants of street `seed`."""
    rng = np.random.default_rng((seed, 1))
    hour = float(np.clip(rng.beta(3.0, 1.3), 0.1, 1.0))
    zenith, haze, clouds = _sky(rng, hour)
    exposure = 0.3 + 0.75 * hour
    warmth = float(rng.uniform(-0.06, 0.08)) + 0.08 * (1 - hour)
    lane = float(rng.uniform(2.9, 4.2))
    drive = -1 if rng.random() < 0.75 else 1
    grey = float(rng.uniform(85, 150))
    slab = float(rng.uniform(120, 185))
    return Look(
        seed=seed,
        lane=lane,
        parking=(bool(rng.random() < 0.35), bool(rng.random() < 0.45)),
        pavement=(float(rng.uniform(1.8, 4.2)), float(rng.uniform(1.8, 4.2))),
        ego_x=drive * lane * 0.5,
        speed=float(rng.uniform(5.0, 11.0)),
        camera_height=float(rng.uniform(1.15, 1.65)),
        focal=float(rng.uniform(1.05, 1.45)),
        horizon=float(rng.uniform(0.44, 0.56)),
        bend=(float(rng.uniform(0.0, 7.0)), float(rng.uniform(45.0, 80.0)), float(rng.uniform(0.0, 6.28))),
        town=float(np.clip(rng.normal(0.45, 0.26), 0.05, 0.85)),
        greenery=float(rng.uniform(0.2, 0.85)),
        crowd=float(rng.uniform(0.15, 0.8)),
        bare_trees=float(rng.choice([0.0, 0.2, 0.9])),
        sun_side=float(rng.choice([-1.0, 1.0])),
        sun=float(rng.uniform(0.25, 1.0)) * (1.0 - 0.85 * clouds),
        light=(exposure * (1 - warmth), exposure, exposure * (1 + warmth)),
        zenith=zenith,
        haze=haze,
        visibility=float(rng.uniform(120.0, 420.0)),
        clouds=clouds,
        asphalt=(grey * float(rng.uniform(0.95, 1.08)), grey, grey * float(rng.uniform(0.95, 1.05))),
        paving=(slab * float(rng.uniform(0.82, 1.0)), slab * 0.97, slab),
        blur=float(rng.uniform(0.0, 0.8)),
        noise=float(rng.uniform(1.0, 4.0)),
    )
