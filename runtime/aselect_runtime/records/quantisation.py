"""How an INT8 graph was quantised."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.records.base import Finite, Frozen
from aselect_runtime.records.data import DataFingerprint


class LayerDecision(Frozen):
    """The decision of the accuracy-aware search for one layer."""

    layer: str
    damage: Annotated[float, Field(ge=0)]
    """Error energy in the logits divided by their variance, with only this layer in INT8."""
    int8: bool


class Quantisation(Frozen):
    """How an INT8 graph was quantised, and its loss of accuracy."""

    method: str
    calibrated_on: DataFingerprint
    rest: Literal["fp16", "fp32"]
    """Precision of the layers that are not INT8."""
    metric: Literal["miou", "top1", "agreement"]
    images: Annotated[int, Field(ge=1)]
    """Number of images that the metric was measured on."""
    fp32: Finite
    int8: Finite
    max_drop: Finite
    measurements: Annotated[int, Field(ge=1)]
    """Number of INT8 graphs that the metric was measured on."""
    layers: tuple[LayerDecision, ...]
    """Sorted by damage, the largest first."""
