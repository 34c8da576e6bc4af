"""Images that are there twice: in two splits, where figures say how well a model remembers, or in two classes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from aselect_edge.data.sets import ClassificationData, Split, image_name
from aselect_runtime.files import sha256
from aselect_runtime.media import some_of

END = 4096
"""Bytes at the end of a file: in one block, and nearly always different in different images."""
Key = TypeVar("Key")


def repeated(train: Split, other: Split) -> list[Path]:
    """The images of `other` whose files have the same bytes as an image of `train`."""
    learnt, held = ([split.path(index) for index in range(len(split))] for split in (train, other))
    of_train, of_other = set(learnt), set(held)
    return sorted({path for group in _alike([*learnt, *held]) if of_train & set(group) for path in group} & of_other)


def told_repeats(train: Split, other: Split, name: str) -> str | None:
    """A line about the images of `other`, the split `name`, that train has too; None if there are none."""
    twice = repeated(train, other)
    if not twice:
        return None
    return (
        f"{len(twice)} of the {len(other)} images of {name} are also in train ({some_of([p.name for p in twice])}): "
        f"its figures are too high; take them out of one of the two"
    )


def told_conflicts(train: Split) -> str | None:
    """A line about images of `train` that have several classes; None if there are none, and for segmentation."""
    if not isinstance(train, ClassificationData):
        return None
    labels = dict(zip(train.paths, train.labels, strict=True))
    groups = [group for group in _alike(train.paths) if len({labels[path] for path in group}) > 1]
    if not groups:
        return None
    names = [" and ".join(image_name(path) for path in sorted(group)) for group in groups]
    return f"train has images in more than one class ({some_of(names)}): keep each in its own class only"


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
