"""Images that are in two splits: figures on them say how well a model remembers, not how well it generalises."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from aselect_edge.data.sets import Split
from aselect_runtime.files import sha256
from aselect_runtime.media import some_of


def repeated(train: Split, other: Split) -> list[Path]:
    """The images of `other` whose files have the same bytes as an image of `train`.

    Only files of equal size are read; a file that has vanished is not a repeat.
    """
    of_train = _by_size(train)
    found: list[Path] = []
    for size, paths in _by_size(other).items():
        hashes = {digest for path in of_train.get(size, ()) if (digest := _hash(path))}
        found += [path for path in paths if hashes and _hash(path) in hashes]
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


def _by_size(split: Split) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = defaultdict(list)
    for path in map(split.path, range(len(split))):
        with suppress(OSError):
            found[path.stat().st_size].append(path)
    return found


def _hash(path: Path) -> str | None:
    with suppress(OSError):
        return sha256(path)
    return None
