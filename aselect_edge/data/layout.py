"""Data layouts in a folder: the layouts, the one that fits, and the splits that a set does not have."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from aselect_edge.data.intact import readable
from aselect_edge.data.sets import Split, image_name
from aselect_runtime.errors import InputError
from aselect_runtime.media import is_hidden, some_of, warn_once

HELD_OUT = 0.1
"""Share of the training images that becomes `val` if a set has none."""
FEWEST = 10
"""Minimum held-out images if there are twice as many: with fewer, the choice of a tap or checkpoint is random."""
UNREADABLE_SHARE = 0.05
"""A larger share of unreadable images, and more than FEW_UNREADABLE, means that the copy failed."""
FEW_UNREADABLE = 2
FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""Names of the folders of a split, in any case."""

D = TypeVar("D", bound=Split)


@dataclass(frozen=True)
class Layout(Generic[D]):
    """One way in which labelled images are arranged in a folder."""

    name: str
    tree: str
    """The files that identify the layout, in one line."""
    fits: Callable[[Path], bool]
    splits: Callable[[Path], Sequence[str]]
    """The splits that exist; if `val` is not among them, it is split off `train`."""
    read: Callable[[Path, str], D]
    images: Callable[[Path, str], Sequence[Path]] | None = None
    """The images of a split, if they can be found without parsing the labels."""


def find(data: Path, layouts: Sequence[Layout[D]]) -> Layout[D] | None:
    """The first layout that fits; more specific layouts come first."""
    return next((layout for layout in layouts if layout.fits(data)), None) if data.is_dir() else None


def offered(data: Path, layout: Layout[D]) -> list[str]:
    """The splits that a layout has or can be split into."""
    there = list(layout.splits(data))
    return there if "val" in there or "train" not in there else [*there, "val"]


def open_split(data: Path, split: str, layout: Layout[D]) -> D:
    """One split of data in a layout; raises InputError for a split that does not exist or has no image."""
    opened = layout.read(data, _source(data, split, layout))
    return opened.subset(_part(data, split, layout, [opened.path(index) for index in range(len(opened))]))


def images_of_split(data: Path, split: str, layout: Layout[D]) -> list[Path]:
    """The images that `open_split` opens, found without checking labels that are not needed to find them."""
    paths = _all_images(data, split, layout)
    return [paths[index] for index in _part(data, split, layout, paths)]


def broken_images(data: Path, split: str, layout: Layout[D]) -> list[Path]:
    """The images of a split that `open_split` leaves out, or refuses if they are many, because they do not decode."""
    return [path for path in _all_images(data, split, layout) if not readable(path)]


def _all_images(data: Path, split: str, layout: Layout[D]) -> Sequence[Path]:
    source = _source(data, split, layout)
    if layout.images is not None:
        return layout.images(data, source)
    opened = layout.read(data, source)
    return [opened.path(index) for index in range(len(opened))]


def _source(data: Path, split: str, layout: Layout[D]) -> str:
    """The stored split that contains `split`."""
    if split not in offered(data, layout):
        raise InputError(
            f"{data}: got no {split} split in the layout {layout.name}, expected one of "
            f"{', '.join(offered(data, layout)) or layout.tree}; choose another split or add its folder"
        )
    return split if split in layout.splits(data) else "train"


def _part(data: Path, split: str, layout: Layout[D], paths: Sequence[Path]) -> list[int]:
    """Indices of the readable images that belong to a split; `val` may have to be split off `train`."""
    kept = {*only_readable(paths, data)}
    intact = [index for index, path in enumerate(paths) if path in kept]
    there = layout.splits(data)
    if split in there and (split != "train" or "val" in there):
        chosen = intact
    else:
        held = held_out([_name_inside(data, paths[index]) for index in intact])
        chosen = [index for at, index in enumerate(intact) if (at in held) == (split == "val")]
        if split == "val":
            few = "" if len(chosen) >= FEWEST else f", fewer than {FEWEST}: its figures are not reliable, add images"
            warn_once(
                f"{data}: has no val split; {len(chosen)} of its {len(intact)} training images are held out as val{few}"
            )
    if not chosen:
        raise InputError(f"{data}: got no image in {split}, expected at least one; add images or their own folder")
    return chosen


def _name_inside(data: Path, path: Path) -> str:
    """The image's name without any part of the data's own location, which may be renamed."""
    return image_name(path.relative_to(data) if path.is_relative_to(data) else path)


def only_readable(paths: Sequence[Path], data: Path) -> list[Path]:
    """The images that decode; warns of the others, and raises InputError if there are many, or if all fail."""
    kept, broken = [path for path in paths if readable(path)], [path for path in paths if not readable(path)]
    if broken:
        warn_once(f"{data}: left out {len(broken)} unreadable images: {some_of(broken)}")
    if broken and not kept:
        raise InputError(
            f"{broken[0]}: cannot be decoded, nor any of the {len(broken)} images of {data}, expected readable "
            f"images; replace them"
        )
    if len(broken) > max(FEW_UNREADABLE, UNREADABLE_SHARE * len(paths)):
        raise InputError(
            f"{data}: got {len(broken)} unreadable images of {len(paths)}, expected at most 5 %; "
            f"repair or remove them: {some_of(broken)}"
        )
    return kept


def held_out(names: Sequence[str]) -> set[int]:
    """Indices of the validation images: by a hash of the name, so that adding images does not move the others.

    If the hash selects fewer than FEWEST, the images with the next hash values are added, at most half of all.
    """
    shares = [int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64 for name in names]
    taken = {index for index, share in enumerate(shares) if share < HELD_OUT}
    fewest = min(FEWEST, max(1, len(names) // 2))
    return taken if len(taken) >= fewest else set(sorted(range(len(names)), key=shares.__getitem__)[:fewest])


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds."""
    return next((split for split, names in FOLDERS.items() if name.lower() in names), None)


def split_folders(data: Path) -> dict[str, Path]:
    """The folder of each split, under any of its names; raises InputError for two folders of one split."""
    found: dict[str, Path] = {}
    for folder in sorted(data.iterdir()) if data.is_dir() else ():
        split = split_of(folder.name)
        if split is None or not folder.is_dir():
            continue
        if split in found:
            raise InputError(
                f"{folder}: got a second folder of the split {split} next to {found[split].name}, expected one; "
                "merge or remove one"
            )
        found[split] = folder
    return {split: found[split] for split in FOLDERS if split in found}


def folders_in(data: Path) -> list[str]:
    """The names of the folders directly in `data`, sorted, without hidden ones."""
    return sorted(child.name for child in data.iterdir() if child.is_dir() and not is_hidden(child.name))
