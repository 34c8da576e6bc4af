"""ADE20K in the format of the scene parsing benchmark: 150 classes, 0 means no label."""

from __future__ import annotations

from pathlib import Path

from aselect_edge.data.classes import name_classes
from aselect_edge.data.layout import Layout, split_folders
from aselect_edge.data.lists import listed
from aselect_edge.data.masks import NO_LABEL, Remapped
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.errors import InputError
from aselect_runtime.files import read_file
from aselect_runtime.media import list_images

_NAMES = "objectInfo150.txt"


def _read(data: Path, split: str) -> SegmentationData:
    images = split_folders(data / "images")[split]
    paths = list_images(images)
    labels = listed(data / "annotations" / images.name, (f"{path.stem}.png" for path in paths), images)
    classes = name_classes(_short(_names(data / _NAMES)), data / _NAMES)
    known = {0: NO_LABEL, **{index + 1: index for index in range(len(classes))}}
    return SegmentationData(tuple(zip(paths, labels, strict=True)), classes, NO_LABEL, Remapped(known))


def _names(path: Path) -> list[str]:
    """The last column of a table whose first one counts from 1."""
    try:
        rows = [line.split("\t") for line in read_file(path).decode().splitlines()[1:] if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: unreadable ({error}), expected the names of the classes; download it again"
        ) from error
    if [row[0].strip() for row in rows] != [str(number) for number in range(1, len(rows) + 1)] or len(rows) > 254:
        raise InputError(f"{path}: got a table that does not count from 1, expected Idx … Name; download it again")
    return [row[-1].strip() for row in rows]


def _short(names: list[str]) -> list[str]:
    """The first synonym of each class, unless another class begins with the same one."""
    first = [name.split(",")[0] for name in names]
    return [short if first.count(short) == 1 else name for short, name in zip(first, names, strict=True)]


ADE20K = Layout(
    "ADE20K",
    f"images/training/, annotations/training/ and {_NAMES}",
    lambda data: (data / _NAMES).is_file() and (data / "annotations").is_dir(),
    lambda data: tuple(split_folders(data / "images")),
    _read,
)
