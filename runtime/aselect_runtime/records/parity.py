"""How far a graph is from its reference."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, field_validator

from aselect_runtime.records.base import Frozen


class Parity(Frozen):
    """How far one graph is from its reference on the verification frames."""

    graph: str
    reference: str
    frames: int
    max_error: float
    """max |delta| / max |reference| of the scores before argmax or softmax."""
    agreement: Annotated[float, Field(ge=0, le=1)]
    """Share of pixels (segmentation) or frames (classification) with the same class; a frame whose two classes the
    reference hardly tells apart counts as one with the same."""
    passed: bool

    @field_validator("max_error")
    @classmethod
    def _not_nan(cls, value: float) -> float:
        return value if not math.isnan(value) else math.inf
