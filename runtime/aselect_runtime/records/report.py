"""The record `report.json`: measurements of an export."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from aselect_runtime.records.base import Finite, Record
from aselect_runtime.records.distilled import Replacement
from aselect_runtime.records.parity import Parity
from aselect_runtime.records.quantisation import Quantisation


class Report(Record):
    """The measurements of an export (`report.json`)."""

    kind: ClassVar[str] = "report"
    version: ClassVar[tuple[int, int]] = (1, 2)

    parity: tuple[Parity, ...] = ()
    accuracy: dict[str, Finite] = Field(default_factory=dict)
    size: dict[str, int] = Field(default_factory=dict)
    latency: dict[str, Finite] = Field(default_factory=dict)
    kept_fp32: dict[str, dict[str, str]] = Field(default_factory=dict)
    """For each half-precision graph: node that still computes in FP32 -> reason."""
    quantisation: Quantisation | None = None
    replacement: Replacement | None = None
    """The encoder that was deployed in place of the full one, if any."""
    notes: tuple[str, ...] = ()
