"""CUB-200-2011 and NABirds: the same four lists next to the images; NABirds adds a hierarchy of its classes."""

from __future__ import annotations

from pathlib import Path

from aselect_edge.data.classes import name_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed, read_rows
from aselect_edge.data.sets import ClassificationData
from aselect_runtime.errors import InputError

_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_TREE = "hierarchy.txt"


def _read(data: Path, split: str) -> ClassificationData:
    images, labels, training, names = (dict(read_rows(data / name)) for name in _LISTS)
    for table, name in ((labels, _LISTS[1]), (training, _LISTS[2])):
        missing = next((key for key in images if key not in table), None)
        if missing is not None:
            raise InputError(f"{data / name}: got no line for image {missing}, expected one; download the list again")
    used = set(labels.values())
    unnamed = used - set(names)
    if unnamed:
        raise InputError(f"{data / _LISTS[3]}: got no line for class {min(unnamed)}, expected one; download it again")
    order = [key for key in names if key in used]  # NABirds also lists the groups above its classes
    index = {key: number for number, key in enumerate(order)}
    chosen = [key for key in images if (training[key] == "1") == (split == "train")]
    paths = listed(data / "images", (images[key] for key in chosen), data / _LISTS[0])
    classes = name_classes(_unique(data, order, names), data / _LISTS[3])
    return ClassificationData(tuple(paths), tuple(index[labels[key]] for key in chosen), classes)


def _unique(data: Path, order: list[str], names: dict[str, str]) -> list[str]:
    """Names; a name that several classes share gets the parent class of the hierarchy in brackets."""
    parents = dict(read_rows(data / _TREE)) if (data / _TREE).is_file() else {}
    plain = [names[key] for key in order]
    shared = {name for name in plain if plain.count(name) > 1}
    return [
        f"{names[key]} ({names.get(parents.get(key, ''), key)})" if names[key] in shared else names[key]
        for key in order
    ]


BIRDS = Layout(
    "CUB-200-2011 or NABirds",
    f"images/ and {', '.join(_LISTS)}",
    lambda data: all((data / name).is_file() for name in _LISTS),
    lambda _: ("train", "test"),
    _read,
)
