"""Tasks and their classes."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from aselect_runtime.records.base import Frozen

Task = Literal["seg", "cls"]


Colour = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]


class ClassInfo(Frozen):
    """One class: its name and the colour (RGB) that images give it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    colour: Colour


def _unique_names(classes: tuple[ClassInfo, ...]) -> tuple[ClassInfo, ...]:
    names = [info.name for info in classes]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"got the class {twice!r} twice, expected a name for each class of its own")
    return classes


Classes = Annotated[tuple[ClassInfo, ...], Field(min_length=1, max_length=10_000), AfterValidator(_unique_names)]


def check_count(task: Task, classes: Sized) -> None:
    """Raise ValueError for more classes than a map holds: it is uint8, and 255 is no label."""
    if task == "seg" and len(classes) > 255:
        raise ValueError(f"got {len(classes)} classes to segment, expected at most 255")
