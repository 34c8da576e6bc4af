"""Symmetric rounding to 8 bits: q = round(x / scale), x ≈ scale · q. Zero is exact and there is no zero point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from aselect_calibration.thresholds import LEVELS


@dataclass(frozen=True)
class Format:
    """A number format of 8 bits, and how values are scaled into it."""

    name: Literal["int8", "fp8"]
    dtype: np.dtype[Any]
    largest: float
    """Larger magnitudes saturate."""
    activation: float
    """The magnitude that the largest calibrated value of an activation is scaled to."""
    least_scale: float
    """Smaller scales are not used."""

    def rounded(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Scaled values in this format."""
        clipped = np.clip(values, -self.largest, self.largest)
        return (np.rint(clipped) if self.name == "int8" else clipped).astype(self.dtype)


INT8 = Format("int8", np.dtype(np.int8), LEVELS, LEVELS, 0.0)

# E4M3: 4 bits of exponent, 3 of mantissa. Its relative precision is the same over five decades, so neither a factor of
# two above the calibrated values nor a lower limit for scales, which keeps them normal FP16 numbers, makes it coarser.
FP8 = Format(
    "fp8",
    helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN),
    448.0,
    224.0,
    float(np.finfo(np.float16).tiny),
)


def scale_of(threshold: float, dtype: type[np.floating] = np.float32, form: Format = INT8) -> NDArray[np.floating]:
    """The scalar scale of an activation, in the compute type of its graph."""
    scale = max(threshold / form.activation, form.least_scale)
    return np.maximum(np.asarray(scale, dtype), np.finfo(dtype).tiny)


def weight_scales(weight: NDArray[np.float32], axis: int, form: Format = INT8) -> NDArray[np.float32]:
    """One scale for every output channel, along `axis`."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest: NDArray[np.float32] = np.abs(weight).max(axis=others)
    # A channel of zeros has no scale; any is correct, and that of another channel stays in FP16's range.
    known = np.where(largest > 0, largest, largest.max() or 1.0).astype(np.float32)
    # A channel of the smallest numbers would get the scale 0, and NaN as its levels.
    least = max(form.least_scale, float(np.finfo(np.float32).tiny))
    scales: NDArray[np.float32] = np.maximum(known / np.float32(form.largest), np.float32(least))
    return scales


def weight_levels(
    weight: NDArray[np.float32], scales: NDArray[np.floating], axis: int, form: Format = INT8
) -> NDArray[Any]:
    """The weight in the 8-bit format at its scales."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    return form.rounded(weight / scales.astype(np.float32).reshape(shape))


def round_weight(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A weight after rounding to INT8 and back."""
    scales = weight_scales(weight, axis)
    shape = [1] * weight.ndim
    shape[axis] = -1
    rounded: NDArray[np.float32] = weight_levels(weight, scales, axis) * scales.reshape(shape)
    return rounded


def round_activation(values: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """An activation after rounding to INT8 and back."""
    scale = np.float32(scale_of(threshold))
    rounded: NDArray[np.float32] = np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale
    return rounded
