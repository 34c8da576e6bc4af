"""Some of many, evenly."""

from __future__ import annotations


def evenly(total: int, count: int) -> list[int]:
    """`count` indices of 0 to total - 1, ascending: the first index of each of `count` equal parts.

    With more parts than indices, indices repeat.
    """
    return [part * total // count for part in range(count)]
