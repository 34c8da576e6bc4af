"""How a graph was quantised to INT8, FP8 or INT4 weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.records.base import Finite, Frozen
from aselect_runtime.records.data import DataFingerprint


class LayerDecision(Frozen):
    """The decision of the accuracy-aware search for one layer."""

    layer: str
    damage: Annotated[float, Field(ge=0)]
    """Error energy in the logits divided by their variance, with only this layer quantised."""
    int8: bool
    """Whether it is quantised. Fields called int8 are older than the other formats, which they describe too."""


class Quantisation(Frozen):
    """How a graph was quantised, and its loss of accuracy."""

    form: Literal["int8", "fp8", "int4"] = "int8"
    """INT8 or FP8 weights and activations, or INT4 weights alone."""
    method: str | None
    calibrated_on: DataFingerprint | None
    """None with INT4 weights: they need no calibration."""
    rest: Literal["fp16", "fp32"]
    """Precision of the layers that are not quantised."""
    metric: Literal["miou", "top1", "agreement"]
    images: Annotated[int, Field(ge=1)]
    """Number of images that the metric was measured on."""
    fp32: Finite
    int8: Finite
    """The metric of the quantised graph."""
    max_drop: Finite
    measurements: Annotated[int, Field(ge=1)]
    """Number of quantised graphs that the metric was measured on."""
    bytes_before: Annotated[int, Field(ge=1)] | None = None
    """Bytes of the graph with every layer in the precision `rest`; None in older reports."""
    bytes_after: Annotated[int, Field(ge=1)] | None = None
    """Bytes of the quantised graph."""
    layers: tuple[LayerDecision, ...]
    """Sorted by damage, the largest first."""
