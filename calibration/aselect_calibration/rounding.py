"""Symmetric INT8: q = clip(round(x / scale), -127, 127), x ≈ scale · q. Zero is exact and there is no zero point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aselect_calibration.thresholds import LEVELS


def scale_of(threshold: float, dtype: type[np.floating] = np.float32) -> NDArray[np.floating]:
    """The scalar scale of an activation, in the compute type of its graph."""
    return np.maximum(np.asarray(threshold / LEVELS, dtype), np.finfo(dtype).tiny)


def weight_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """One scale for every output channel, along `axis`."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest: NDArray[np.float32] = np.abs(weight).max(axis=others)
    # A channel of zeros has no scale; any is correct, and that of another channel stays in FP16's range.
    return np.where(largest > 0, largest, largest.max() or 1.0).astype(np.float32) / np.float32(LEVELS)


def weight_levels(weight: NDArray[np.float32], scales: NDArray[np.floating], axis: int) -> NDArray[np.int8]:
    """The weight as INT8 levels at its scales."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    levels = np.rint(weight / scales.astype(np.float32).reshape(shape))
    return np.clip(levels, -LEVELS, LEVELS).astype(np.int8)


def round_weight(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A weight after rounding to INT8 and back."""
    scales = weight_scales(weight, axis)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return weight_levels(weight, scales, axis) * scales.reshape(shape)


def round_activation(values: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """An activation after rounding to INT8 and back."""
    scale = np.float32(scale_of(threshold))
    rounded: NDArray[np.float32] = np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale
    return rounded
