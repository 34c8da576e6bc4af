"""Plain classification folders: one folder of images per class, with or without splits."""

from __future__ import annotations

import json
from pathlib import Path

from aselect_edge.data.classes import FILE, name_classes, read_classes
from aselect_edge.data.layout import FOLDERS, Layout, split_folders
from aselect_edge.data.sets import ClassificationData
from aselect_runtime.errors import InputError
from aselect_runtime.media import is_hidden, is_image, list_images
from aselect_runtime.records import ClassInfo

_SPLITS = frozenset(name for names in FOLDERS.values() for name in names)
_OF_MASKS = frozenset({"images", "labels", "masks", "annotations"})


def _below(folder: Path) -> list[str]:
    """The folders that could be classes."""
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))


def _classed(data: Path) -> dict[str, Path]:
    return {s: f for s, f in split_folders(data).items() if (names := set(_below(f))) and not names <= _OF_MASKS}


def _is_flat(data: Path) -> bool:
    names = _below(data)
    return len(names) > 1 and not {*names} & (_SPLITS | _OF_MASKS) and all(_has_image(data / name) for name in names)


def _has_image(folder: Path) -> bool:
    return any(is_image(path) and not is_hidden(path.name) for path in folder.iterdir())


def _read_split(data: Path, split: str) -> ClassificationData:
    folders = _classed(data)
    return _read(data, folders[split], folders.get("train", folders[split]))


def _read_flat(data: Path, split: str) -> ClassificationData:  # noqa: ARG001 - there is but one
    return _read(data, data, data)


def _read(data: Path, folder: Path, train: Path) -> ClassificationData:
    """`classes.json` orders and names the classes, an entry's `folder` (else its `name`) being its folder.

    Without that file they are the folders of `train`, by name.
    """
    names, classes = _classes(data, train)
    found = _below(folder)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(
            f"{folder / unknown[0]}: not one of the {len(names)} classes, expected {', '.join(names[:3])} "
            "and so on; remove the folder, correct classes.json, or take the task seg",
            parameter="task",
        )
    pairs = [(path, names.index(name)) for name in found for path in list_images(folder / name)]
    return ClassificationData(tuple(path for path, _ in pairs), tuple(label for _, label in pairs), classes)


def _classes(data: Path, train: Path) -> tuple[list[str], tuple[ClassInfo, ...]]:
    """Folder names and classes, in the order of the classes' indices."""
    path = data / FILE
    if not path.is_file():
        return _below(train), name_classes(_below(train), train)
    classes, _ = read_classes(path)
    entries = {entry["name"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))["classes"]}
    return [str(entries[info.name].get("folder", info.name)) for info in classes], classes


SPLIT = Layout(
    "folders of classes",
    "train/ and val/ with one folder of images per class in each",
    lambda data: bool(_classed(data)),
    lambda data: tuple(_classed(data)),
    _read_split,
)
FLAT = Layout("one folder of classes", "one folder of images per class", _is_flat, lambda _: ("train",), _read_flat)
