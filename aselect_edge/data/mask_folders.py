"""Plain segmentation folders: images and index masks of the same name, with or without splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aselect_edge.data.classes import FILE, name_classes, read_classes
from aselect_edge.data.colour_masks import FILE as LABELMAP
from aselect_edge.data.colour_masks import read_labelmap
from aselect_edge.data.layout import Layout, split_folders, warn_once
from aselect_edge.data.masks import NO_LABEL, Remapped, read_indices
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.errors import InputError
from aselect_runtime.media import list_images

_LABELS = ("labels", "masks")


def _paired(folder: Path) -> Path | None:
    """The folder of masks beside `images`, or None where one of the two is missing."""
    if not (folder / "images").is_dir():
        return None
    return next((folder / name for name in _LABELS if (folder / name).is_dir()), None)


def _labelled(data: Path) -> dict[str, Path]:
    return {split: folder for split, folder in split_folders(data).items() if _paired(folder)}


def _read_split(data: Path, split: str) -> SegmentationData:
    folders = _labelled(data)
    return _read(data, folders[split], folders.get("train", folders[split]))


def _read_flat(data: Path, split: str) -> SegmentationData:  # noqa: ARG001 - there is but one
    return _read(data, data, data)


def _read(data: Path, folder: Path, train: Path) -> SegmentationData:
    """The pairs of a folder; the classes are `labelmap.txt`'s, `classes.json`'s or the values in `train`'s masks."""
    pairs = _pairs(folder)
    if (data / LABELMAP).is_file():
        coloured, decode = read_labelmap(data / LABELMAP)
        return SegmentationData(pairs, coloured, NO_LABEL, decode)
    if (data / FILE).is_file():
        classes, ignore = read_classes(data / FILE)
        return SegmentationData(pairs, classes, ignore)
    masks = [label for _, label in _pairs(train)]
    values = _values(masks)
    if len(values) < 2:
        got = f"the value {values[0]}" if values else "no value"
        raise InputError(
            f"{masks[0].parent}: got {got} in the masks besides {NO_LABEL} (no label), expected the values of "
            f"two classes; write 1 instead of 255 where that is a class, or say in {FILE} what the values mean"
        )
    warn_once(
        f"{data}: has no {FILE}; took the {len(values)} values in {len(masks)} masks for classes, names are missing"
    )
    classes = name_classes([f"class-{value}" for value in values], masks[0].parent)
    known = {**{value: index for index, value in enumerate(values)}, NO_LABEL: NO_LABEL}
    return SegmentationData(pairs, classes, NO_LABEL, Remapped(known))


def _pairs(folder: Path) -> tuple[tuple[Path, Path], ...]:
    images, labels = folder / "images", _paired(folder)
    assert labels is not None
    paths = list_images(images)
    pairs = tuple((path, (labels / path.relative_to(images)).with_suffix(".png")) for path in paths)
    alone = [label for _, label in pairs if not label.is_file()]
    if alone:
        raise InputError(f"{alone[0]}: no such file ({len(alone)} missing), expected one label per image; add them")
    return pairs


def _values(masks: Sequence[Path]) -> list[int]:
    counts = np.zeros(256, np.int64)
    for mask in masks:
        counts += np.bincount(read_indices(mask).ravel(), minlength=256)
    return [int(value) for value in np.flatnonzero(counts) if value != NO_LABEL]


SPLIT = Layout(
    "folders of masks",
    "train/ and val/ with images/ and labels/ (or masks/) in each",
    lambda data: bool(_labelled(data)),
    lambda data: tuple(_labelled(data)),
    _read_split,
)
FLAT = Layout(
    "one folder of masks",
    "images/ and labels/ (or masks/)",
    lambda data: _paired(data) is not None,
    lambda _: ("train",),
    _read_flat,
)
