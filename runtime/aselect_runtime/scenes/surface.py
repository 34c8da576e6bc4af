"""The parts that are not polygons: the sky, the texture of surfaces and the noise of the sensor."""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime.scenes.camera import camera_at
from aselect_runtime.scenes.look import look_of

TEXELS = 40.0  # per metre of ground or wall


@functools.lru_cache(maxsize=1)
def texture() -> NDArray[np.int16]:
    """Texture [65536] around zero, a 256 by 256 tile: fine noise over coarse noise."""
    rng = np.random.default_rng(7)
    tile = rng.normal(0, 30, (256, 256)).astype(np.float32)
    for cells, weight in ((64, 20.0), (16, 12.0), (6, 9.0)):
        coarse = rng.normal(0, weight, (cells, cells)).astype(np.float32)
        wrapped = np.pad(coarse, 2, mode="wrap")
        size = 256 * (cells + 4) // cells
        edge = (size - 256) // 2
        tile += cv2.resize(wrapped, (size, size), interpolation=cv2.INTER_CUBIC)[edge : edge + 256, edge : edge + 256]
    return np.clip(tile, -120, 120).astype(np.int16).ravel()


class Surface(NamedTuple):
    """Per pixel: the texel that it shows for a camera at z = 0, and the strength of the texture at its depth."""

    texel: NDArray[np.uint16]
    strength: NDArray[np.int16]


@functools.lru_cache(maxsize=16)
def surface_of(seed: int, height: int, width: int) -> Surface:
    """Texels of the ground and of the two walls of a straight street."""
    look = look_of(seed)
    camera = camera_at(look, height, width, 0.0)
    u = np.arange(width, dtype=np.float32)[None] - camera.middle
    v = np.arange(height, dtype=np.float32)[:, None] - look.horizon * height
    ground = look.camera_height * camera.focal / np.maximum(v, 0.5)
    reach = np.where(u < 0, look.ego_x - look.front(-1), look.front(1) - look.ego_x)
    wall = reach * camera.focal / np.maximum(np.abs(u), 0.5)
    on_wall = (wall < ground) | (v <= 0.5)
    depth = np.where(on_wall, wall, ground)
    other = np.where(on_wall, -v * depth, u * depth) / camera.focal
    rows = (depth * TEXELS).astype(np.int64) & 255
    columns = (other * TEXELS).astype(np.int64) & 255
    fade = np.clip(camera.focal / (depth * TEXELS) * 1.6, 0.12, 1.0)
    return Surface((rows * 256 + columns).astype(np.uint16), (fade * 256).astype(np.int16))


@functools.lru_cache(maxsize=16)
def sky_of(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Gradient and clouds, BGR [H, W, 3]."""
    look = look_of(seed)
    rng = np.random.default_rng((seed, 4))
    rise = np.clip(1.0 - np.arange(height) / max(look.horizon * height, 1.0), 0, 1)[:, None, None] ** 0.8
    sky = np.array(look.haze) * (1 - rise) + np.array(look.zenith) * rise
    sky = np.broadcast_to(sky, (height, width, 3)).astype(np.float32)
    # Clouds are smooth: they are computed at a low resolution and enlarged.
    small = (max(width // 4, 4), max(height // 4, 4))
    layer = np.zeros(small[::-1], np.float32)
    for cells in (3, 6, 12, 24):
        coarse = rng.normal(0, 1.0 / cells**0.7, (cells, cells)).astype(np.float32)
        layer += cv2.resize(coarse, small, interpolation=cv2.INTER_CUBIC)
    cloud = cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR)
    cover = np.clip(cloud * 1.6 + 1.6 * look.clouds - 0.9, 0, 1)[..., None]
    tone = min(float(np.mean(look.haze)) * 1.06, 255.0)
    lit = np.clip(tone * (1.0 + 0.10 * cloud[..., None]), 0, 255)
    painted: NDArray[np.uint8] = np.clip(sky * (1 - 0.85 * cover) + lit * 0.85 * cover, 0, 255).astype(np.uint8)
    return painted


@functools.lru_cache(maxsize=4)
def _noise_bank(height: int, width: int) -> NDArray[np.int16]:
    rng = np.random.default_rng(9)
    return (rng.standard_normal((height + 64, width + 64, 3), np.float32) * 64).astype(np.int16)


def noise(seed: int, height: int, width: int, index: int) -> NDArray[np.int16]:
    """Sensor noise of frame `index`: a random window of one large noise image."""
    y, x = np.random.default_rng((seed, 6, index)).integers(0, 64, 2)
    window = _noise_bank(height, width)[y : y + height, x : x + width]
    return np.asarray(cv2.addWeighted(window, look_of(seed).noise / 64.0, window, 0.0, 0.0), np.int16)
