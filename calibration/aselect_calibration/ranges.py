"""The result of calibration as a record: `ranges.json` of a bundle, and the calibration cache."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from aselect_runtime.records import DataFingerprint, Frozen, Record, Sha256

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Range(Frozen):
    """Thresholds of one layer: magnitudes beyond them saturate."""

    input: Positive
    output: Positive | None = None
    """Threshold of a convolution's output, after a ReLU if one follows."""


class NormSmoothing(Frozen):
    """The factors that a norm's output is divided by, per channel."""

    strength: Annotated[float, Field(ge=0, le=1)]
    factors: tuple[Positive, ...]


class Ranges(Record):
    """Activation ranges of a deployed graph's layers, by the names that the graph gives them."""

    kind: ClassVar[str] = "ranges"

    graph: Sha256
    data: DataFingerprint
    method: Literal["minmax", "percentile", "entropy", "mse"]
    batch: Annotated[int, Field(ge=1)]
    layers: dict[str, Range]
    smoothing: dict[str, NormSmoothing]
