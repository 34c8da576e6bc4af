"""The user's settings for INT8, FP8 and INT4 weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from aselect_calibration.thresholds import Method
from aselect_runtime.errors import InputError
from aselect_runtime.options import MOST, choice, within

Rest = Literal["fp16", "fp32"]
Form = Literal["int8", "fp8", "int4"]
"""What a graph is quantised to: INT8, FP8, or INT4 weights alone."""

IMAGES = 128


@dataclass(frozen=True)
class Int8Settings:
    """How to calibrate, and the allowed loss of accuracy. Raises InputError for invalid values."""

    images: int = IMAGES
    """Number of calibration frames."""
    method: Method | None = None
    """None: `mse` for INT8; `minmax` for FP8, which as a floating-point format gains nothing from saturation."""
    max_drop: float | None = None
    """Allowed drop of mIoU or top-1, or of the agreement with FP32 without labels; None: a default for each."""
    rest: Rest | None = None
    """Precision of the layers that are not INT8; None: FP16 if an engine is built (on a GPU), else FP32. With FP8 it is
    FP16."""

    def __post_init__(self) -> None:
        if self.method is not None:
            choice(self.method, get_args(Method), "calib")
        if self.rest is not None:
            choice(self.rest, get_args(Rest), "rest")
        within(self.images, 1, MOST, "calib_images")
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise InputError(
                f"got an allowed drop of {self.max_drop:g}, expected a share from 0 to 1; change it (0.003 is 0.3 "
                f"points)",
                parameter="max_drop",
            )

    def method_for(self, form: Form) -> Method:
        """How ranges are found for this format."""
        return self.method or ("minmax" if form == "fp8" else "mse")
