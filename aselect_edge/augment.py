"""Augmentation of labelled frames for training."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from aselect_edge.frames import Frame, resize, resize_label
from aselect_edge.records import Resize


@dataclass(frozen=True)
class Augmentation:
    """How far training views stray from the frame."""

    smallest_crop: float = 0.45
    """Smallest side of a crop, as a share of the frame's side."""
    aspect: float = 1.2
    """Largest stretch of a crop's aspect ratio."""
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.04


def labelled_view(
    rng: np.random.Generator,
    frame: Frame,
    label: Frame,
    size: tuple[int, int],
    how: Resize,
    ignore: int,
    a: Augmentation,
) -> tuple[Frame, Frame]:
    """A random crop, mirror and colour of a frame [H, W, 3] and its label [H, W], both at `size` (height, width).

    Half of the views are whole frames through the deployed resize, so that what is deployed is also trained on.
    """
    height, width = label.shape
    share = rng.uniform(a.smallest_crop, 1.0) if rng.random() < 0.5 else 1.0
    stretch = rng.uniform(1 / a.aspect, a.aspect) ** 0.5 if share < 1 else 1.0
    h, w = min(height, round(height * share * stretch)), min(width, round(width * share / stretch))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    frame, label = frame[top : top + h, left : left + w], label[top : top + h, left : left + w]
    if rng.random() < 0.5:
        frame, label = frame[:, ::-1], label[:, ::-1]
    view = resize(np.ascontiguousarray(frame), size, how)
    return recolour(rng, view, a), resize_label(np.ascontiguousarray(label), size, how, ignore)


def recolour(rng: np.random.Generator, frame: Frame, a: Augmentation) -> Frame:
    """Random hue, saturation, brightness and contrast of a BGR frame."""
    hsv = cv2.cvtColor(frame, cv2.COLOR_BGR2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + 180 * rng.uniform(-a.hue, a.hue)) % 180
    hsv[..., 1] *= rng.uniform(1 - a.saturation, 1 + a.saturation)
    bgr = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2BGR).astype(np.float32)
    bgr = (
        (bgr - 127.5) * rng.uniform(1 - a.contrast, 1 + a.contrast)
        + 127.5
        + 127.5 * rng.uniform(-a.brightness, a.brightness)
    )
    return np.clip(bgr, 0, 255).astype(np.uint8)
