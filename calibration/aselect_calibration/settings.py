"""What a user can choose about INT8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from aselect_calibration.thresholds import Method
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice

Rest = Literal["fp16", "fp32"]


@dataclass(frozen=True)
class Int8Settings:
    """How to calibrate, and how much accuracy may be lost. Raises InputError for values that make no sense."""

    images: int = 128
    """Frames to calibrate on."""
    method: Method = "mse"
    max_drop: float | None = None
    """Of mIoU or top-1, or of the agreement with FP32 where there are no labels; None: a default for each."""
    rest: Rest | None = None
    """What computes that is not INT8; None: FP16 if an engine is built, which means a GPU, else FP32."""

    def __post_init__(self) -> None:
        choice(self.method, get_args(Method), "calib")
        if self.rest is not None:
            choice(self.rest, get_args(Rest), "rest")
        if self.images < 1:
            raise InputError(
                f"got {self.images} images to calibrate on, expected at least 1; 128 is a good number",
                parameter="calib_images",
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise InputError(
                f"got an allowed drop of {self.max_drop:g}, expected a share from 0 to 1; 0.003 is 0.3 points",
                parameter="max_drop",
            )
