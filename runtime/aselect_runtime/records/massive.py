"""Channels of a tap that are far larger than the others."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aselect_runtime.records.base import Frozen
from aselect_runtime.records.tap import Tap

Channel = Annotated[int, Field(ge=0, le=65535)]


class Massive(Frozen):
    """The massive channels of a tap, at the selected noise level."""

    tap: Tap
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)]
    ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The largest channel's mean absolute value over the median of all channels'."""
