"""FGVC-Aircraft by variant: one folder of images, and a list of name and variant per split."""

from __future__ import annotations

from pathlib import Path

from aselect_edge.data.classes import name_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed, read_rows
from aselect_edge.data.sets import ClassificationData
from aselect_runtime.errors import InputError

_SPLITS = ("train", "val", "test")


def _root(data: Path) -> Path:
    """The folder of the lists: the archive's own `data/`, or the given folder."""
    return data / "data" if (data / "data" / "variants.txt").is_file() else data


def _source(data: Path, split: str) -> Path:
    return _root(data) / f"images_variant_{split}.txt"


def _read(data: Path, split: str) -> ClassificationData:
    source, variants = _source(data, split), _root(data) / "variants.txt"
    names = [row[0] for row in read_rows(variants, 1)]
    index = {name: number for number, name in enumerate(names)}
    rows = read_rows(source)
    unknown = [variant for _, variant in rows if variant not in index]
    if unknown:
        raise InputError(f"{source}: got the variant {unknown[0]!r}, expected one of {variants}; download both again")
    paths = listed(_root(data) / "images", (f"{name}.jpg" for name, _ in rows), source)
    return ClassificationData(tuple(paths), tuple(index[variant] for _, variant in rows), name_classes(names, variants))


AIRCRAFT = Layout(
    "FGVC-Aircraft",
    "data/images/, data/variants.txt and data/images_variant_train.txt",
    lambda data: (_root(data) / "variants.txt").is_file() and _source(data, "train").is_file(),
    lambda data: tuple(split for split in _SPLITS if _source(data, split).is_file()),
    _read,
)
