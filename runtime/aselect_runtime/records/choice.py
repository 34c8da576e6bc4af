"""Measurements on this machine for choosing between several ways to run a model."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from aselect_runtime.records.base import Finite, Frozen, Record


class Trial(Frozen):
    """One way: a device with a graph of the export folder."""

    device: str
    model: str
    ms: Annotated[Finite, Field(gt=0)]
    """Median milliseconds of a batch."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of pixels or frames with the same class as the reference's; None if the export's checks are sufficient."""
    passed: bool = True
    """Whether it passed its check; if not, it is never chosen."""


class Choice(Record):
    """The ways that were measured, and the index of the chosen one (`taken`)."""

    kind: ClassVar[str] = "choice"

    date: str
    trials: tuple[Trial, ...]
    taken: Annotated[int, Field(ge=0)]
