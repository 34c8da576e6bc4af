"""Parsing option values: a size, a list, or one of several names; refusing what would have no effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Literal, TypeVar

from aselect_runtime.errors import InputError

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino", "openvino-bf16"]
"""The devices a model can run on; `auto` uses the fastest available one."""
MOST = 2**63 - 1
"""The largest whole number of an option."""
LEAST_SECONDS, MOST_SECONDS = 1e-3, 1e9
"""Of a time limit; the most is 31 years, near the longest that a timer of Python can wait."""
Word = TypeVar("Word", bound=str)


Decode = Literal["auto", "software", "hardware"]
"""What may decode streams and videos; `auto` takes hardware where it really decodes, and else the processor."""


def parse_size(size: str | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from the text `HxW` or from a pair, each 8 to 8192 pixels; raises InputError."""
    text = "x".join(map(str, size)) if isinstance(size, Sequence) and not isinstance(size, str) else str(size)
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and 8 <= int(height) <= 8192 and 8 <= int(width) <= 8192):
        raise InputError(f"got the size {size!r}, expected HxW in pixels, 8 to 8192; for example 144x192")
    return int(height), int(width)


def parse_list(text: str) -> tuple[str, ...]:
    """The items of a comma-separated list, without surrounding spaces; empty items are left out."""
    return tuple(part for part in map(str.strip, text.split(",")) if part)


def within(value: float | None, least: float, most: float, parameter: str, whole: bool = True) -> None:
    """Raise InputError, which names the parameter, unless `value` is None or a number from `least` to `most`."""
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if value is not None and not (number and least <= value <= most):
        kind, limit = "a whole number" if whole else "a number", f" to {most:g}" if most < MOST else " on"
        raise InputError(
            f"got {parameter.replace('_', ' ')} {value!r}, expected {kind} from {least:g}{limit}; change it",
            parameter=parameter,
        )


def choice(value: str, allowed: Sequence[Word], parameter: str) -> Word:
    """`value`, if it is one of `allowed`; otherwise raises InputError, which names the parameter."""
    for word in allowed:
        if value == word:
            return word
    named = parameter.replace("_", " ")
    raise InputError(
        f"got {named} {value!r}, expected one of {', '.join(allowed)}; choose one of these", parameter=parameter
    )


def refuse_unused(given: Mapping[str, object], where: str, needed: str, by: tuple[str, ...] = ()) -> None:
    """Raise InputError for the first parameter that was `given` (not None or False): it would have no effect.

    `where` and `needed` say with what it has none and with what it has one; `by` names the parameters that decide that.
    """
    for name, value in given.items():
        if value is None or value is False:
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        what = name.replace("_", " ") + ("" if value is True else f" {shown}")
        raise InputError(
            f"got {what} with {where}, where it has no effect, expected it only with {needed}; leave it out",
            parameter=(name, *by),
        )
