"""Images that are there twice: in two splits, where figures say how well a model remembers, or in two classes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from aselect_edge.data.sets import ClassificationData, Split, image_name
from aselect_runtime.files import sha256
from aselect_runtime.media import some_of

END = 4096
"""Bytes at the end of a file: in one block, and nearly always different in different images."""
Key = TypeVar("Key")


def told_twice(train: Split, others: Mapping[str, Split]) -> list[str]:
    """A line if `train` has an image in several classes, and one for each other split, by name, that has its images."""
    groups = _alike(path for split in (train, *others.values()) for path in _paths(split))
    told = [_conflicts(train, groups), *(_repeats(train, other, name, groups) for name, other in others.items())]
    return [line for line in told if line is not None]


def _repeats(train: Split, other: Split, name: str, groups: list[list[Path]]) -> str | None:
    of_train, of_other = set(_paths(train)), set(_paths(other))
    twice = sorted({path for group in groups if of_train & set(group) for path in group} & of_other)
    if not twice:
        return None
    return (
        f"{len(twice)} of the {len(other)} images of {name} are also in train ({some_of([p.name for p in twice])}): "
        f"its figures are too high; take them out of one of the two"
    )


def _conflicts(train: Split, groups: list[list[Path]]) -> str | None:
    if not isinstance(train, ClassificationData):
        return None
    labels: dict[Path, set[int]] = defaultdict(set)  # a list may name an image twice
    for path, label in zip(train.paths, train.labels, strict=True):
        labels[path].add(label)
    of_train = [sorted({path for path in group if path in labels}) for group in groups]
    several = [group for group in of_train if len({label for path in group for label in labels[path]}) > 1]
    if not several:
        return None
    names = [" and ".join(image_name(path) for path in group) for group in several]
    return f"train has images in more than one class ({some_of(names)}): keep each in its own class only"


def _paths(split: Split) -> list[Path]:
    return [split.path(index) for index in range(len(split))]


def _alike(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of files with the same bytes; one that has vanished is in none.

    Only the end of files of equal size is read, and of those that end equally the rest.
    """
    groups: list[list[Path]] = [list(paths)]
    for key in (_size, _end, sha256):
        groups = [alike for group in groups for alike in _grouped(group, key).values() if len(alike) > 1]
    return groups


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
