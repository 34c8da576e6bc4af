"""Inputs and outputs of a graph."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.records.base import Frozen

Size = tuple[Annotated[int, Field(ge=8, le=8192)], Annotated[int, Field(ge=8, le=8192)]]


class TensorSpec(Frozen):
    """Name, element type and static shape of a graph input or output."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[Annotated[int, Field(ge=1)], ...]
