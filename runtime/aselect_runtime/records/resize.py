"""How frames become model inputs."""

from __future__ import annotations

from typing import Literal

from aselect_runtime.records.base import Frozen


class Resize(Frozen):
    """How a camera frame becomes a model input; the same in training, calibration, evaluation and runtime."""

    mode: Literal["stretch", "letterbox"] = "stretch"
    interpolation: Literal["area", "linear"] = "area"
