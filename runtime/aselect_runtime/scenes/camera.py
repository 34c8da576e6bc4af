"""The pinhole camera behind the windscreen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.scenes.look import Look
from aselect_runtime.scenes.shapes import Points

NEAR = 0.6
# Pixel coordinates are fixed-point numbers with this many fractional bits, as OpenCV's drawing functions accept them.
SHIFT = 4


class Camera(NamedTuple):
    """Pinhole at (`x`, `height`, `z`) that looks along the street; `focal` and the principal point in pixels."""

    look: Look
    x: float
    z: float
    focal: float
    middle: float
    horizon: float

    def project(self, points: Points) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Points [N, 3] as fixed-point pixels [N, 2] and depths [N]; depths under NEAR are moved to NEAR.

        That is exact for walls and the ground; other objects are outside the image at that depth.
        """
        depth = points[:, 2] - np.float32(self.z)
        held = np.maximum(depth, np.float32(NEAR))
        scale = np.float32(self.focal) / held
        out = np.empty((len(points), 2), np.float32)
        out[:, 0] = (points[:, 0] - np.float32(self.x) + self._bend(held)) * scale + np.float32(self.middle)
        out[:, 1] = np.float32(self.horizon) - (points[:, 1] - np.float32(self.look.camera_height)) * scale
        np.clip(out, -20000, 20000, out=out)
        return np.rint(out * (1 << SHIFT)).astype(np.int32), depth

    def _bend(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Lateral offset of the bent street at `depth`, in metres."""
        swing, length, phase = self.look.bend
        offset, slope = self.look.centre(self.z)
        bent = swing * np.sin((depth + np.float32(self.z)) / np.float32(length) + np.float32(phase))
        result: NDArray[np.float32] = (bent - np.float32(offset) - np.float32(slope) * depth).astype(np.float32)
        return result


def camera_at(look: Look, height: int, width: int, time: float) -> Camera:
    """The camera after `time` seconds, with the slight sway and pitch of a car."""
    focal = look.focal * height
    nod = 0.0025 * float(np.sin(7.0 * time + look.seed)) + 0.003 * float(np.sin(1.7 * time))
    turn = 0.012 * float(np.sin(0.5 * time + look.seed))
    return Camera(
        look=look,
        x=look.ego_x + 0.12 * float(np.sin(0.7 * time)),
        z=look.speed * time,
        focal=focal,
        middle=width / 2 + turn * focal,
        horizon=(look.horizon + nod) * height,
    )
