"""How an INT8 graph was made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.records.base import Finite, Frozen
from aselect_runtime.records.data import DataFingerprint


class LayerDecision(Frozen):
    """What the accuracy-aware search decided about one layer."""

    layer: str
    damage: Annotated[float, Field(ge=0)]
    """Error energy in the logits over what varies in them, with this layer alone in INT8."""
    int8: bool


class Quantisation(Frozen):
    """How an INT8 graph was made, and what it costs in accuracy."""

    method: str
    calibrated_on: DataFingerprint
    rest: Literal["fp16", "fp32"]
    """What computes that is not INT8."""
    metric: Literal["miou", "top1", "agreement"]
    images: Annotated[int, Field(ge=1)]
    """How many the metric was measured on."""
    fp32: Finite
    int8: Finite
    max_drop: Finite
    measurements: Annotated[int, Field(ge=1)]
    """How often the metric was measured on an INT8 graph."""
    layers: tuple[LayerDecision, ...]
    """Worst first."""
