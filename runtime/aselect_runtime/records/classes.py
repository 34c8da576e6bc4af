"""Tasks and their classes."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Literal
from unicodedata import category

from pydantic import AfterValidator, Field

from aselect_runtime.records.base import Frozen

Task = Literal["seg", "cls"]

TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text after them."""


Colour = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]


def _printable(name: str) -> str:
    if any(category(char) in {"Cc", "Cs"} or char in TURNS for char in name):
        raise ValueError(f"got the class name {name!a}, expected no control characters, which can affect a terminal")
    return name


class ClassInfo(Frozen):
    """One class: its name and its colour (RGB) in drawn images."""

    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
    colour: Colour


def _unique_names(classes: tuple[ClassInfo, ...]) -> tuple[ClassInfo, ...]:
    names = [info.name for info in classes]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"got the class {twice!r} twice, expected a different name for each class")
    return classes


Classes = Annotated[tuple[ClassInfo, ...], Field(min_length=1, max_length=10_000), AfterValidator(_unique_names)]


def check_count(task: Task, classes: Sized) -> None:
    """Raise ValueError for more classes than a class map can hold: it is uint8, and 255 means ignored."""
    if task == "seg" and len(classes) > 255:
        raise ValueError(f"got {len(classes)} classes to segment, expected at most 255")
