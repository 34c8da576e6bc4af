"""Images that are in two splits: figures on them say how well a model remembers, not how well it generalises."""

from __future__ import annotations

import filecmp
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from aselect_edge.data.sets import Split
from aselect_runtime.media import some_of

END = 4096
"""Bytes at the end of a file: in one block, and nearly always different in different images."""
Key = TypeVar("Key")


def repeated(train: Split, other: Split) -> list[Path]:
    """The images of `other` whose files have the same bytes as an image of `train`.

    Only the end of files of equal size is read, and of those that end equally the rest; a file that has vanished is not
    a repeat.
    """
    of_train = _grouped(map(train.path, range(len(train))), _size)
    found: list[Path] = []
    for size, paths in _grouped(map(other.path, range(len(other))), _size).items():
        ends = _grouped(of_train.get(size, ()), _end)
        if ends:
            for end, alike in _grouped(paths, _end).items():
                found += [path for path in alike if _is_one_of(ends.get(end, ()), path)]
    return sorted(found)


def told_repeats(train: Split, other: Split, name: str) -> str | None:
    """A line about the images of `other`, the split `name`, that train has too; None if there are none."""
    twice = repeated(train, other)
    if not twice:
        return None
    return (
        f"{len(twice)} of the {len(other)} images of {name} are also in train ({some_of([p.name for p in twice])}): "
        f"its figures are too high; take them out of one of the two"
    )


def _grouped(paths: Iterable[Path], key: Callable[[Path], Key]) -> dict[Key, list[Path]]:
    found: dict[Key, list[Path]] = defaultdict(list)
    for path in paths:
        with suppress(OSError):
            found[key(path)].append(path)
    return found


def _size(path: Path) -> int:
    return path.stat().st_size


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, _size(path) - END))
        return hashlib.sha256(file.read()).digest()


def _is_one_of(paths: Iterable[Path], path: Path) -> bool:
    with suppress(OSError):
        return any(filecmp.cmp(each, path, shallow=False) for each in paths)
    return False
