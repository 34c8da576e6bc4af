"""Augmentation of labelled frames for training: pure functions of a random generator and a frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from aselect_runtime.frames import Frame, resize, resize_label
from aselect_runtime.records import Resize


@dataclass(frozen=True)
class Augmentation:
    """Limits of the random changes in training views."""

    smallest_crop: float = 0.45
    """Smallest side of a crop, as a share of the frame's side."""
    aspect: float = 1.2
    """Largest change of a crop's aspect ratio."""
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.04
    erased: float = 0.25
    """Share of a classifier's views in which a rectangle is erased."""


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

    Half of the views are whole frames through the deployed resize, so that training includes the deployed input.
    """
    part, mirrored = _crop(rng, label.shape, a), rng.random() < 0.5
    view, labels = (_cut(array, part, mirrored) for array in (frame, label))
    return recolour(rng, resize(view, size, how), a), resize_label(labels, size, how, ignore)


def classified_view(
    rng: np.random.Generator, frame: Frame, size: tuple[int, int], how: Resize, a: Augmentation
) -> Frame:
    """A random crop, mirror, colour and erased rectangle of a frame [H, W, 3], at `size` (height, width).

    Half of the views are whole frames through the deployed resize, as in `labelled_view`.
    """
    part, mirrored = _crop(rng, frame.shape, a), rng.random() < 0.5
    view = recolour(rng, resize(_cut(frame, part, mirrored), size, how), a)
    return erase(rng, view) if rng.random() < a.erased else view


def _crop(rng: np.random.Generator, shape: tuple[int, ...], a: Augmentation) -> tuple[slice, slice]:
    """Rows and columns of a random part of a frame of `shape`; the whole frame with probability 1/2."""
    height, width = shape[:2]
    share = rng.uniform(a.smallest_crop, 1.0) if rng.random() < 0.5 else 1.0
    stretch = rng.uniform(1 / a.aspect, a.aspect) ** 0.5 if share < 1 else 1.0
    h = min(height, max(1, round(height * share * stretch)))
    w = min(width, max(1, round(width * share / stretch)))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return slice(top, top + h), slice(left, left + w)


def _cut(array: Frame, part: tuple[slice, slice], mirrored: bool) -> Frame:
    return np.ascontiguousarray(array[part][:, ::-1] if mirrored else array[part])


def erase(rng: np.random.Generator, frame: Frame) -> Frame:
    """The frame [H, W, 3] with a random-colour rectangle of 2 to 20 % of its area (Zhong et al., arXiv 1708.04896)."""
    height, width = frame.shape[:2]
    side, stretch = rng.uniform(0.02, 0.2) ** 0.5, rng.uniform(0.5, 2.0) ** 0.5
    h, w = (max(1, min(n, round(n * share))) for n, share in ((height, side * stretch), (width, side / stretch)))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    erased = frame.copy()
    erased[top : top + h, left : left + w] = rng.integers(0, 256, 3)
    return erased


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
