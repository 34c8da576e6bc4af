"""Noise levels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aselect_runtime.records.base import Frozen


class Noise(Frozen):
    """One noise level: x_t = alpha * x0 + sigma * eps, and the value that the timestep embedder is fed.

    Stored instead of a timestep index, because the same index means different noise in different schedulers.
    """

    alpha: Annotated[float, Field(ge=0, le=1)]
    sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Above 1 if a model's noise is stronger than unit noise, as JiT's at 512 pixels."""
    model_timestep: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LevelWeight(Frozen):
    """A noise level and its share, 0 to 1, of a distribution or a mixture."""

    noise: Noise
    weight: Annotated[float, Field(ge=0, le=1)]
