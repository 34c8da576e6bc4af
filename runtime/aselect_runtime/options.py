"""Reading what users write: a size, or one of several words."""

from __future__ import annotations

from collections.abc import Sequence

from aselect_runtime.errors import InputError


def parse_size(size: str | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of `HxW`, or of the two themselves, each 8 to 8192 pixels; raises InputError."""
    text = size if isinstance(size, str) else "x".join(map(str, size))
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and 8 <= int(height) <= 8192 and 8 <= int(width) <= 8192):
        raise InputError(f"got the size {size!r}, expected HxW in pixels, 8 to 8192; for example 144x192")
    return int(height), int(width)


def choice(value: str, allowed: Sequence[str], option: str) -> str:
    """`value`, if it is one of `allowed`; raises InputError that names the option."""
    if value not in allowed:
        raise InputError(f"got {option} {value!r}, expected one of {', '.join(allowed)}; change {option}")
    return value
