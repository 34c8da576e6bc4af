"""Labelled folders: `DIR/<split>/images` and `DIR/<split>/labels` with `DIR/classes.json` for segmentation,
`DIR/<split>/<class>/*` for classification.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import ValidationError

from aselect_edge.errors import InputError
from aselect_edge.frames import Frame, list_images, read_image
from aselect_edge.records import ClassInfo


@dataclass(frozen=True)
class SegmentationData:
    """One split: paired image and index-PNG paths, the classes, and the label value that means "no label"."""

    pairs: tuple[tuple[Path, Path], ...]
    classes: tuple[ClassInfo, ...]
    ignore_index: int

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """What the picture is called."""
        return self.pairs[index][0].name

    def read(self, index: int) -> tuple[Frame, Frame]:
        """(BGR uint8 [H, W, 3], labels uint8 [H, W]); raises InputError for a bad or mismatched pair."""
        image_path, label_path = self.pairs[index]
        image = read_image(image_path)
        label = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        if label is None or label.dtype != np.uint8 or label.ndim != 2:
            raise InputError(f"{label_path}: not an 8-bit single-channel PNG, expected class indices; convert it")
        if label.shape != image.shape[:2]:
            raise InputError(
                f"{label_path}: got {label.shape[0]}x{label.shape[1]}, expected the image's "
                f"{image.shape[0]}x{image.shape[1]}; resize it with nearest neighbour"
            )
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
        unknown = np.setdiff1d(present, [*range(len(self.classes)), self.ignore_index])
        if unknown.size:
            raise InputError(
                f"{label_path}: got class {unknown[0]}, expected 0 to {len(self.classes) - 1} or "
                f"{self.ignore_index} (no label); correct the label or classes.json"
            )
        return image, label  # type: ignore[return-value]


def open_segmentation(data: Path, split: str) -> SegmentationData:
    """Pair the images and labels of a split by stem; raises InputError for a missing folder, file or partner."""
    if not (data / split / "images").is_dir():
        raise InputError(
            f"{data / split / 'images'}: no such folder, expected images/ and labels/ for segmentation; check --data, "
            "or take --task cls where there is one folder per class"
        )
    classes, ignore = read_classes(data / "classes.json")
    images = list_images(data / split / "images")
    pairs = [(image, data / split / "labels" / f"{image.stem}.png") for image in images]
    alone = [label for _, label in pairs if not label.is_file()]
    if alone:
        raise InputError(f"{alone[0]}: no such file ({len(alone)} missing), expected one label per image; add them")
    return SegmentationData(tuple(pairs), classes, ignore)


@dataclass(frozen=True)
class ClassificationData:
    """One split: image paths, the class of each, and the classes."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[ClassInfo, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """What the picture is called."""
        return self.paths[index].name

    def read(self, index: int) -> tuple[Frame, int]:
        """(BGR uint8 [H, W, 3], class); raises InputError for an unreadable image."""
        return read_image(self.paths[index]), self.labels[index]


def open_classification(data: Path, split: str) -> ClassificationData:
    """The images below each class's folder of a split; raises InputError for missing, empty or unknown folders.

    `classes.json` orders and names the classes, an entry's `folder` (else its `name`) being its folder. Without that
    file they are the folders of `train`, by name.
    """
    if not (data / split).is_dir():
        raise InputError(f"{data / split}: no such folder, expected one folder per class in it; check --data")
    folders, classes = _class_folders(data)
    found = sorted(child.name for child in (data / split).iterdir() if child.is_dir())
    unknown = [name for name in found if name not in folders]
    if unknown:
        raise InputError(
            f"{data / split / unknown[0]}: not one of the {len(folders)} classes, expected {', '.join(folders[:3])} "
            "and so on; remove the folder, correct classes.json, or take --task seg"
        )
    pairs = [(path, folders.index(name)) for name in found for path in list_images(data / split / name)]
    if not pairs:
        raise InputError(f"{data / split}: got no class folder, expected one folder of images per class; add them")
    return ClassificationData(tuple(path for path, _ in pairs), tuple(label for _, label in pairs), classes)


def _class_folders(data: Path) -> tuple[list[str], tuple[ClassInfo, ...]]:
    """Folder names and classes, in the order of the classes' indices."""
    path = data / "classes.json"
    if path.is_file():
        classes, _ = read_classes(path)
        entries = {entry["name"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))["classes"]}
        return [str(entries[info.name].get("folder", info.name)) for info in classes], classes
    train = data / "train"
    folders = sorted(child.name for child in train.iterdir() if child.is_dir()) if train.is_dir() else []
    if not folders or folders == ["images", "labels"]:
        raise InputError(
            f"{train}: got {' and '.join(folders) or 'no folders'}, expected one folder per class; "
            "check --data, or take --task seg"
        )
    return folders, tuple(ClassInfo(name=name, colour=_colour(index)) for index, name in enumerate(folders))


def read_classes(path: Path) -> tuple[tuple[ClassInfo, ...], int]:
    """Classes in the order of their ids, and the ignore index (255 where the file names none)."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        entries = sorted(content["classes"], key=lambda entry: entry["id"])
        classes = tuple(ClassInfo(name=e["name"], colour=e.get("color_rgb", _colour(e["id"]))) for e in entries)
        ids = [entry["id"] for entry in entries]
        ignore = int(content.get("ignore_index", 255))
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror}), expected the list of classes; add it") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(
            f'{path}: not understood ({reason}), expected {{"classes": [{{"id": 0, "name": "road"}}, …]}}; correct it'
        ) from error
    if not 0 <= ignore <= 255 or len(ids) > 255:
        raise InputError(
            f"{path}: got ignore_index {ignore} and {len(ids)} classes, expected 0 to 255 and at most 255; correct it"
        )
    names = [info.name for info in classes]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: got a class name twice among {', '.join(names)}, expected unique ones; rename it")
    known = [i for i in ids if i != ignore]
    if known != list(range(len(known))) or not known:
        raise InputError(f"{path}: got class ids {ids}, expected 0 to {len(ids) - 1} without gaps; renumber them")
    return tuple(info for info, i in zip(classes, ids, strict=True) if i != ignore), ignore


def _colour(index: int) -> tuple[int, int, int]:
    """A colour of its own for a class that names none: hues a golden angle apart."""
    hsv = np.array([[[int(index * 137.508) % 180, 200, 230]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
    return int(red), int(green), int(blue)
