"""What was measured on this machine to choose between several ways of running a model."""

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
    """Share of pixels or frames with the same class as the reference's; None where the graph's own gates vouch."""
    passed: bool = True
    """Whether it passed its gate; what did not is never taken."""


class Choice(Record):
    """The ways that were tried, and the number of the one that is taken."""

    kind: ClassVar[str] = "choice"

    date: str
    trials: tuple[Trial, ...]
    taken: Annotated[int, Field(ge=0)]
