"""Plain segmentation folders: images and masks of the same name, with or without splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aselect_edge.data.classes import FILE, VALUES, name_classes, read_classes, read_values, says_ignored
from aselect_edge.data.colour_masks import FILE as LABELMAP
from aselect_edge.data.colour_masks import labelmap_of, read_labelmap
from aselect_edge.data.layout import Layout, split_folders
from aselect_edge.data.masks import NO_LABEL, SUFFIXES, Remapped, read_indices
from aselect_edge.data.places import Place, chosen_by, pairs, places, split_lists
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.errors import InputError
from aselect_runtime.media import some_of, warn_once

_BINARY = {0: 0, NO_LABEL: 1}
_MOST_GREYS = 32
"""More values than this, between black and white that fill nearly all of the masks, indicate blurred edges."""
_SPREAD = 10
"""Largest plausible ratio of class index to number of classes; above it, 255 is a grey level, not "no label"."""


def _place(data: Path, split: str) -> Place:
    found = places(data, SUFFIXES)
    return found[split] if split in found else found["train"]


def _lists(data: Path) -> dict[str, Path]:
    """The lists that define the splits of a folder without split folders."""
    return split_lists(data) if list(places(data, SUFFIXES)) == ["train"] and not split_folders(data) else {}


def _splits(data: Path) -> tuple[str, ...]:
    return tuple(_lists(data) or places(data, SUFFIXES))


def _of_split(data: Path, split: str) -> list[tuple[Path, Path | None]]:
    place = _place(data, split)
    found, source = pairs(place, SUFFIXES), _lists(data).get(split)
    return found if source is None else chosen_by(source, place.images, found)


def _images(data: Path, split: str) -> list[Path]:
    return [image for image, _ in _of_split(data, split)]


def _pairs(data: Path, split: str) -> tuple[tuple[Path, Path], ...]:
    """Images and masks of a split; raises InputError for an image without one."""
    found = _of_split(data, split)
    alone = [image for image, mask in found if mask is None]
    if alone:
        place = _place(data, split)
        missing = (place.labels / alone[0].relative_to(place.images)).with_suffix(".png")
        raise InputError(f"{missing}: no such file ({len(alone)} missing), expected one label per image; add them")
    return tuple((image, mask) for image, mask in found if mask is not None)


def _read(data: Path, split: str) -> SegmentationData:
    """The classes are those of `labelmap.txt`, `classes.json`, or the values in `train`'s masks."""
    found, source = _pairs(data, split), labelmap_of(data)
    if source:
        coloured, decode = read_labelmap(source)
        return SegmentationData(found, coloured, NO_LABEL, decode, source)
    of_train = found if split == "train" or "train" not in _splits(data) else _pairs(data, "train")
    masks = [mask for _, mask in of_train]
    if (data / FILE).is_file():
        return _named(found, masks, data / FILE)
    table = _place(data, "train" if "train" in _splits(data) else split).labels / VALUES
    if table.is_file():
        values = read_values(table)
        classes = name_classes(list(values.values()), table)
        return SegmentationData(found, classes, NO_LABEL, Remapped(_indexed(list(values))), table)
    known = _known(masks)
    classes = name_classes([f"class-{value}" for value in known][: len({*known.values()} - {NO_LABEL})], data)
    warn_once(f"{data}: has no {FILE}; used the {len(classes)} values in {len(masks)} masks as classes without names")
    return SegmentationData(found, classes, NO_LABEL, Remapped(known))


def _named(found: tuple[tuple[Path, Path], ...], masks: Sequence[Path], source: Path) -> SegmentationData:
    """The data with the classes of a file; of two classes, white is class 1 in masks that are only black and white."""
    classes, ignore = read_classes(source)
    if len(classes) == 2 and not says_ignored(source) and _black_and_white(masks):
        return SegmentationData(found, classes, ignore, Remapped(_BINARY), source)
    return SegmentationData(found, classes, ignore, named_in=source)


def _black_and_white(masks: Sequence[Path]) -> bool:
    """Whether masks have both values and no other; for most masks the first file decides."""
    white = False
    for mask in masks:
        present = np.flatnonzero(np.bincount(read_indices(mask).ravel(), minlength=256))
        if not {*present.tolist()} <= {*_BINARY}:
            return False
        white = white or NO_LABEL in present
    return white


def _known(masks: Sequence[Path]) -> dict[int, int]:
    """The class of each value in the masks, 255 last; raises InputError for values that are not class indices."""
    counts = np.zeros(256, np.int64)
    for mask in masks:
        counts += np.bincount(read_indices(mask).ravel(), minlength=256)
    present = [int(value) for value in np.flatnonzero(counts)]
    if present == [*_BINARY]:
        return _BINARY
    values, folder = [value for value in present if value != NO_LABEL], masks[0].parent
    if len(values) < 2:
        got = f"the value {values[0]}" if values else "no value"
        raise InputError(
            f"{folder}: got {got} in the masks besides {NO_LABEL} (no label), expected the values of two classes; "
            f"add masks with another class, or say in {FILE} what the values mean"
        )
    if NO_LABEL in present and len(present) > _MOST_GREYS and (counts[0] + counts[NO_LABEL]) > 0.9 * counts.sum():
        raise InputError(
            f"{folder}: got {len(present)} grey levels between black and white, expected class indices; the masks were "
            "resized with interpolation: save them with nearest neighbour"
        )
    if NO_LABEL in present and values[-1] > _SPREAD * len(values):
        raise InputError(
            f"{folder}: got the grey levels {some_of(present, 5)}, expected class indices from 0; say which level is "
            f"which class in a {LABELMAP} with lines such as road:{values[-1]},{values[-1]},{values[-1]}"
        )
    return _indexed(values)


def _indexed(values: Sequence[int]) -> dict[int, int]:
    return {**{value: index for index, value in enumerate(values)}, **({} if NO_LABEL in values else {255: NO_LABEL})}


MASKS = Layout(
    "images and masks",
    "images/ and masks/ (or labels/), with or without train/ and val/ above or in them",
    lambda data: bool(places(data, SUFFIXES)),
    _splits,
    _read,
    _images,
)
