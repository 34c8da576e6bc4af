"""The user's settings for INT8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from aselect_calibration.thresholds import Method
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice

Rest = Literal["fp16", "fp32"]


@dataclass(frozen=True)
class Int8Settings:
    """How to calibrate, and the allowed loss of accuracy. Raises InputError for invalid values."""

    images: int = 128
    """Number of calibration frames."""
    method: Method = "mse"
    max_drop: float | None = None
    """Allowed drop of mIoU or top-1, or of the agreement with FP32 without labels; None: a default for each."""
    rest: Rest | None = None
    """Precision of the layers that are not INT8; None: FP16 if an engine is built (on a GPU), else FP32."""

    def __post_init__(self) -> None:
        choice(self.method, get_args(Method), "calib")
        if self.rest is not None:
            choice(self.rest, get_args(Rest), "rest")
        if self.images < 1:
            raise InputError(
                f"got {self.images} images to calibrate on, expected at least 1; increase it, for example to 128",
                parameter="calib_images",
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise InputError(
                f"got an allowed drop of {self.max_drop:g}, expected a share from 0 to 1; change it (0.003 is 0.3 "
                f"points)",
                parameter="max_drop",
            )
