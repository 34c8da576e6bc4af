"""Difference between a graph's outputs and its reference's."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, field_validator

from aselect_runtime.records.base import Frozen


class Parity(Frozen):
    """Difference between one graph's outputs and its reference's on the verification frames."""

    graph: str
    reference: str
    frames: int
    max_error: float
    """max |delta| / max |reference| of the scores before argmax or softmax."""
    agreement: Annotated[float, Field(ge=0, le=1)]
    """Share of pixels (segmentation) or frames (classification) with the same class; a frame whose two classes have
    nearly equal scores in the reference counts as the same class."""
    passed: bool

    @field_validator("max_error")
    @classmethod
    def _not_nan(cls, value: float) -> float:
        return value if not math.isnan(value) else math.inf
