"""How data lie in a folder: layouts, the one that fits, and the splits that a set does not have."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

from aselect_edge.data.sets import Split
from aselect_runtime.errors import InputError

log = logging.getLogger(__name__)

HELD_OUT = 0.1
"""Share of the training images that becomes `val` where a set has none."""
FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""What the folders of a split are called."""

D = TypeVar("D", bound=Split)


@dataclass(frozen=True)
class Layout(Generic[D]):
    """One way in which labelled images lie in a folder."""

    name: str
    tree: str
    """What is recognised, in one line."""
    fits: Callable[[Path], bool]
    splits: Callable[[Path], Sequence[str]]
    """The splits that are there; where `val` is not among them, it is split off `train`."""
    read: Callable[[Path, str], D]


def find(data: Path, layouts: Sequence[Layout[D]]) -> Layout[D] | None:
    """The first layout that fits; the order says which is the more particular one."""
    return next((layout for layout in layouts if layout.fits(data)), None) if data.is_dir() else None


def offered(data: Path, layout: Layout[D]) -> list[str]:
    """The splits that a layout has or can be split into."""
    there = list(layout.splits(data))
    return there if "val" in there or "train" not in there else [*there, "val"]


def open_split(data: Path, split: str, layout: Layout[D]) -> D:
    """One split of data in a layout; raises InputError for a split that is not there or has no image."""
    there = layout.splits(data)
    if split not in offered(data, layout):
        raise InputError(
            f"{data}: got no {split} split in the layout {layout.name}, expected one of "
            f"{', '.join(offered(data, layout)) or layout.tree}; take another or add its folder"
        )
    if split in there and (split != "train" or "val" in there):
        return _filled(layout.read(data, split), data, split)
    whole = _filled(layout.read(data, "train"), data, "train")
    held = held_out([whole.name(index) for index in range(len(whole))])
    chosen = [index for index in range(len(whole)) if (index in held) == (split == "val")]
    if split == "val":
        warn_once(f"{data}: has no val split; {len(chosen)} of its {len(whole)} training images are held out as one")
    return _filled(whole.subset(chosen), data, split)


@cache
def warn_once(line: str) -> None:
    """Warn of what is the same whenever these data are opened, and only the first time."""
    log.warning("%s", line)


def held_out(names: Sequence[str]) -> set[int]:
    """Indices of the images that are validated on: by a hash of the name, so that more images change nothing.

    Where the hash takes none, which only happens to small sets, the image nearest to being taken is.
    """
    shares = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 for name in names]
    taken = {index for index, share in enumerate(shares) if share < HELD_OUT}
    return taken or {shares.index(min(shares))}


def split_folders(data: Path) -> dict[str, Path]:
    """The folder of each split that has one, whichever of its names it goes by."""
    found = {}
    for split, names in FOLDERS.items():
        folder = next((data / name for name in names if (data / name).is_dir()), None)
        if folder:
            found[split] = folder
    return found


def _filled(opened: D, data: Path, split: str) -> D:
    if not len(opened):
        raise InputError(f"{data}: got no image in {split}, expected at least one; add images or their own folder")
    return opened
