"""Task heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.records.base import Frozen
from aselect_runtime.records.classes import Task

HeadKind = Literal["linear", "attention", "conv", "edge"]


HEAD_KINDS: dict[Task, tuple[HeadKind, ...]] = {"cls": ("linear", "attention"), "seg": ("linear", "conv", "edge")}
"""The head kinds of each task."""


class HeadSpec(Frozen):
    """The task head: its kind and the arguments it is built with."""

    kind: HeadKind
    channels: Annotated[int, Field(ge=1, le=4096)]
