"""Draws the street from far to near, image and labels together, and adds texture, light and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime.scenes.camera import NEAR, SHIFT, Camera, camera_at
from aselect_runtime.scenes.look import look_of
from aselect_runtime.scenes.shapes import (
    BUILDING,
    FENCE,
    MONOTONE,
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    Colour,
    Points,
    Thing,
    shade,
)
from aselect_runtime.scenes.surface import TEXELS, noise, sky_of, surface_of, texture
from aselect_runtime.scenes.world import CHUNK, chunk, movers

FAR = 125.0  # metres
# Metres: polygons beyond it (groups: beyond a third of it) are drawn without anti-aliasing, four times as fast.
_SMOOTH = 36.0
# Strength of the texture by class.
_GRAIN = {ROAD: 55, PAVEMENT: 60, BUILDING: 45, TREE: 130, FENCE: 60}


class Canvas:
    """The image, its labels and the ground's shadows while a frame is drawn."""

    def __init__(self, camera: Camera, height: int, width: int) -> None:
        self.camera = camera
        self.image = sky_of(camera.look.seed, height, width).copy()
        self.labels = np.full((height, width), SKY, np.uint8)
        self.lit = np.full((height, width), 255, np.uint8)

    def _seen(self, colour: Colour, depth: float) -> Colour:
        """A colour as seen in the street's light and through the haze at `depth`."""
        gain, veil = self._air(depth)
        return (colour[0] * gain[0] + veil[0], colour[1] * gain[1] + veil[1], colour[2] * gain[2] + veil[2])

    def _air(self, depth: float) -> tuple[Colour, Colour]:
        """Factors and offsets (BGR) that the light and the haze at `depth` apply to a colour."""
        look = self.camera.look
        keep = math.exp(-max(depth, 0.0) / look.visibility)
        (b, g, r), (hb, hg, hr) = look.light, look.haze
        return (b * keep, g * keep, r * keep), (hb * (1 - keep), hg * (1 - keep), hr * (1 - keep))

    def paint(self, things: Sequence[Thing]) -> None:
        """Draw things over the canvas, in the order given."""
        z, width = self.camera.z, self.labels.shape[1] << SHIFT
        seen = [item for item in things if item.far - z > NEAR]
        if not seen:
            return
        sizes = np.array([len(item.points) for item in seen])
        starts = np.cumsum(sizes) - sizes
        # One projection for all things: the overhead of a NumPy call is larger than the work for one thing.
        pixels, depths = self.camera.project(np.concatenate([item.points for item in seen]))
        inside = (np.maximum.reduceat(pixels[:, 0], starts) >= 0) & (np.minimum.reduceat(pixels[:, 0], starts) < width)
        for item, start, visible in zip(seen, starts.tolist(), inside.tolist(), strict=True):
            if visible:
                stop = start + len(item.points)
                self._paint(item, pixels[start:stop], depths[start:stop])

    def _paint(self, item: Thing, pixels: NDArray[np.int32], depths: NDArray[np.float32]) -> None:
        nearest = item.near - self.camera.z
        gain, veil = self._air(max(nearest, 0.4 * (nearest + item.far - self.camera.z)))
        # Details smaller than the camera's resolution are skipped.
        finest = 1.3 * max(nearest, 1.0) / self.camera.focal
        line = cv2.LINE_AA if nearest < _SMOOTH else cv2.LINE_8
        lines = cv2.LINE_AA if nearest < _SMOOTH / 3 else cv2.LINE_8
        for start, stop, shape, colour, label, detail in item.runs:
            if detail < finest or (nearest <= NEAR and depths[start:stop].max() <= NEAR):
                continue
            contours = pixels[start:stop].reshape(shape)
            if label is not None:
                _fill(self.labels, contours, label)
            if colour is not None:
                tone = (colour[0] * gain[0] + veil[0], colour[1] * gain[1] + veil[1], colour[2] * gain[2] + veil[2])
                _fill(self.image, contours, tone, line if shape[0] == 1 else lines)

    def shadow(self, contours: Points, strength: float) -> None:
        """Darken the ground under `contours` [K, N, 3]."""
        pixels, depths = self.camera.project(contours.reshape(-1, 3))
        if depths.max() <= NEAR:
            return
        _fill(self.lit, pixels.reshape(*contours.shape[:2], 2), 255.0 * (1.0 - strength))

    def ground(self) -> None:
        """Backdrop, verge, pavements and road."""
        look, z = self.camera.look, self.camera.z
        depth = z + np.geomspace(NEAR, 400.0, 40).astype(np.float32)
        grass = (52.0, 104.0, 88.0)
        strips = [(-120.0, 120.0, grass, TREE)]
        kerbstone = shade(look.paving, 1.12)
        for side in (-1, 1):
            kerb, front = look.kerb(side), look.front(side)
            strips.append((kerb, front, look.paving, PAVEMENT))
            strips.append((kerb, kerb + side * 0.18, kerbstone, PAVEMENT))
        strips.append((look.kerb(-1), look.kerb(1), look.asphalt, ROAD))
        for x0, x1, colour, label in strips:
            pixels = self._ribbon(x0, x1, depth)
            _fill(self.labels, pixels, label)
            _fill(self.image, pixels, self._seen(colour, 18.0), cv2.LINE_AA)

    def _ribbon(self, x0: float, x1: float, depth: NDArray[np.float32]) -> NDArray[np.int32]:
        """The strip between two offsets, bent with the street, as one contour."""
        there = np.stack([np.full_like(depth, x0), np.zeros_like(depth), depth], axis=1)
        back = np.stack([np.full_like(depth, x1), np.zeros_like(depth), depth], axis=1)[::-1]
        return self.camera.project(np.concatenate([there, back]))[0][None]

    def backdrop(self) -> None:
        """Far trees and roofs that close the street."""
        look, camera = self.camera.look, self.camera
        rng = np.random.default_rng((look.seed, 5))
        width = self.labels.shape[1]
        for label, tone, low, high in (
            (BUILDING, (120.0, 126.0, 140.0), 0.02, 0.07),
            (TREE, (60.0, 90.0, 78.0), 0.01, 0.05),
        ):
            steps = 24
            skyline = camera.horizon - camera.focal * rng.uniform(low, high, steps)
            across = np.linspace(-0.2 * width, 1.2 * width, steps) + camera.middle - width / 2
            if label == BUILDING:
                across, skyline = np.repeat(across, 2)[1:], np.repeat(skyline, 2)[:-1]
            base = camera.horizon + 3
            ring = np.concatenate([np.stack([across, skyline], 1), [[across[-1], base], [across[0], base]]])
            pixels = np.rint(ring * (1 << SHIFT)).astype(np.int32)[None]
            _fill(self.labels, pixels, label)
            _fill(self.image, pixels, self._seen(tone, FAR * 0.8), cv2.LINE_AA)

    def develop(self, index: int) -> None:
        """Apply texture and shadows to surfaces, then the blur and noise of the sensor."""
        look = self.camera.look
        height, width = self.labels.shape
        surface = surface_of(look.seed, height, width)
        offset = np.uint16((int(self.camera.z * TEXELS) % 256) * 256)
        grain = np.take(texture(), surface.texel + offset)
        table = np.zeros(256, np.float32)
        for label, strength in _GRAIN.items():
            table[label] = strength / (100.0 * 256.0 * 255.0)
        gain = cv2.multiply(cv2.multiply(grain, surface.strength, dtype=cv2.CV_32F), cv2.LUT(self.labels, table)) + 1.0
        ground = (self.labels == ROAD) | (self.labels == PAVEMENT)
        np.multiply(gain, self.lit * np.float32(1 / 255), out=gain, where=ground)
        image = cv2.multiply(self.image, cv2.cvtColor(gain, cv2.COLOR_GRAY2BGR), dtype=cv2.CV_8U)
        if look.blur > 0.3:
            image = cv2.GaussianBlur(image, (3, 3), look.blur)
        noisy = cv2.add(image, noise(look.seed, height, width, index), dtype=cv2.CV_8U)
        self.image = np.asarray(noisy, np.uint8)


def _fill(
    target: NDArray[np.uint8], contours: NDArray[np.int32], colour: float | Colour, line: int = cv2.LINE_8
) -> None:
    if contours.shape[0] == 1 and contours.shape[1] <= MONOTONE:
        cv2.fillConvexPoly(target, contours[0], colour, line, SHIFT)
    else:
        cv2.fillPoly(target, list(contours), colour, line, SHIFT)


def render(seed: int, height: int, width: int, index: int, time: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (BGR [H, W, 3]) and labels [H, W] of street `seed`, `time` seconds into the drive."""
    look = look_of(seed)
    camera = camera_at(look, height, width, time)
    canvas = Canvas(camera, height, width)
    canvas.backdrop()
    canvas.ground()
    numbers = range(int(np.floor(camera.z / CHUNK)), int(np.floor((camera.z + FAR) / CHUNK)) + 1)
    chunks = [chunk(seed, number) for number in numbers]
    things = movers(look, time, camera.z, camera.z + FAR * 0.5)
    canvas.paint([part.markings for part in chunks])
    for part in chunks:
        if look.sun > 0.1:
            canvas.shadow(part.shadows, 0.55 * min(look.sun + 0.2, 1.0))
        things.extend(part.things)
    canvas.paint(sorted(things, key=lambda item: item.order, reverse=True))
    canvas.develop(index)
    return canvas.image, canvas.labels
