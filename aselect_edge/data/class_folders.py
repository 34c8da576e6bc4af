"""Plain classification folders: one folder of images per class, with or without splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from aselect_edge.data.classes import FILE, name_classes, read_classes
from aselect_edge.data.layout import Layout, folders_in, split_folders, split_of
from aselect_edge.data.places import IMAGES, LABELS, is_label_beside
from aselect_edge.data.sets import ClassificationData
from aselect_runtime.errors import InputError
from aselect_runtime.files import read_file
from aselect_runtime.media import IMAGE_SUFFIXES, is_hidden, is_image, list_files, some_of, warn_once
from aselect_runtime.records import ClassInfo

_OF_MASKS = frozenset({*IMAGES, *LABELS})


def _classed(data: Path) -> dict[str, Path]:
    return {
        s: f for s, f in split_folders(data).items() if (n := {x.lower() for x in folders_in(f)}) and not n <= _OF_MASKS
    }


def _is_flat(data: Path) -> bool:
    return _of_images(data) and not doubtful(data)


def _of_images(data: Path) -> bool:
    names = folders_in(data)
    return len(names) > 1 and all(_has_image(data / name) for name in names)


def doubtful(data: Path) -> list[str]:
    """Of several folders of images, those whose names are also names of splits or of folders of masks."""
    clash = [name for name in folders_in(data) if split_of(name) or name.lower() in _OF_MASKS]
    return clash if _of_images(data) else []


def _images(folder: Path, of_train: bool) -> list[Path]:
    """A class's images without label masks; raises InputError for splits inside a class, and for none in `train`."""
    images = list_files(folder, IMAGE_SUFFIXES)
    if of_train and not images:
        raise InputError(f"{folder}: got no image, expected at least one; add images or remove the folder")
    within = next((part for p in images for part in p.relative_to(folder).parts[:-1] if split_of(part)), None)
    if within:
        raise InputError(
            f"{folder}: got the split {within} inside a class folder, expected split folders above the classes; move "
            f"it up"
        )
    kept = [path for path in images if not is_label_beside(path)]
    if len(kept) < len(images):
        masks = [path.name for path in sorted({*images} - {*kept})]
        warn_once(f"{folder}: left out what looks like masks of other images: {some_of(masks)}")
    return kept


def _has_image(folder: Path) -> bool:
    return any(is_image(path) and not is_hidden(path.name) for path in folder.iterdir())


def _read_split(data: Path, split: str) -> ClassificationData:
    folders = _classed(data)
    return _read(data, folders[split], folders.get("train", folders[split]))


def _read_flat(data: Path, split: str) -> ClassificationData:  # noqa: ARG001 - there is only one split
    return _read(data, data, data)


def _read(data: Path, folder: Path, train: Path) -> ClassificationData:
    """`classes.json` orders and names the classes; an entry's `folder` (else its `name`) is its folder.

    Without that file the classes are the folders of `train`, sorted by name.
    """
    names, classes = _classes(data, train)
    found = folders_in(folder)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(
            f"{folder / unknown[0]}: not one of the {len(names)} classes, expected {', '.join(names[:3])} "
            "and so on; remove the folder, correct classes.json, or choose the task seg",
            parameter="task",
        )
    if loose := sorted(path.name for path in folder.iterdir() if is_image(path) and not is_hidden(path.name)):
        warn_once(f"{folder}: left out {len(loose)} images beside the folders of classes: {some_of(loose)}")
    _warn_of_masks(folder, found)
    pairs = [(path, names.index(name)) for name in found for path in _images(folder / name, folder == train)]
    return ClassificationData(tuple(path for path, _ in pairs), tuple(label for _, label in pairs), classes)


def _warn_of_masks(folder: Path, names: Sequence[str]) -> None:
    """Warn of a class that is called as masks are and whose files are called as those of another class."""
    suspects = [name for name in names if name.lower() in LABELS]
    if not suspects:  # the usual case, in which no folder is listed twice
        return
    stems = {name: {path.stem for path in list_files(folder / name, IMAGE_SUFFIXES)} for name in names}
    for masks in (name for name in suspects if stems[name]):
        for images in names:
            if images != masks and stems[masks] <= stems[images]:
                warn_once(
                    f"{folder}: took {masks} and {images} for two classes; if the one holds masks of the other's "
                    f"images, rename {images} to images, for the task seg"
                )


def _classes(data: Path, train: Path) -> tuple[list[str], tuple[ClassInfo, ...]]:
    """Folder names and classes, in the order of the classes' indices."""
    path = data / FILE
    if not path.is_file():
        return folders_in(train), name_classes(folders_in(train), train)
    classes, _ = read_classes(path)
    entries = {entry["name"]: entry for entry in json.loads(read_file(path).decode("utf-8-sig"))["classes"]}
    return [str(entries[info.name].get("folder", info.name)) for info in classes], classes


SPLIT = Layout(
    "folders of classes",
    "train/ and val/ with one folder of images per class in each",
    lambda data: bool(_classed(data)),
    lambda data: tuple(_classed(data)),
    _read_split,
)
FLAT = Layout("one folder of classes", "one folder of images per class", _is_flat, lambda _: ("train",), _read_flat)
