"""The functions that open labelled data, and queries about a folder before it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aselect_edge.data import class_folders
from aselect_edge.data.ade20k import ADE20K
from aselect_edge.data.aircraft import AIRCRAFT
from aselect_edge.data.birds import BIRDS
from aselect_edge.data.cars import CARS
from aselect_edge.data.cityscapes import CITYSCAPES
from aselect_edge.data.coco_instances import COCO_INSTANCES
from aselect_edge.data.coco_panoptic import COCO_PANOPTIC
from aselect_edge.data.colour_masks import CVAT
from aselect_edge.data.dogs import DOGS
from aselect_edge.data.flowers import FLOWERS
from aselect_edge.data.labelme import LABELME
from aselect_edge.data.layout import (
    D,
    Layout,
    find,
    folders_in,
    images_of_split,
    offered,
    only_readable,
    open_split,
    split_of,
)
from aselect_edge.data.mask_folders import MASKS
from aselect_edge.data.places import is_in_labels, is_label_beside
from aselect_edge.data.sets import ClassificationData, LabelledData, SegmentationData
from aselect_edge.data.voc import VOC
from aselect_edge.data.yolo import YOLO
from aselect_runtime.errors import InputError
from aselect_runtime.media import list_images, some_of
from aselect_runtime.records import Task

# The first layout that fits is used: layouts of a single data set come before general ones.
SEGMENTATION: tuple[Layout[SegmentationData], ...] = (
    CVAT,
    VOC,
    COCO_PANOPTIC,
    ADE20K,
    CITYSCAPES,
    COCO_INSTANCES,
    MASKS,
    YOLO,
    LABELME,
)
CLASSIFICATION: tuple[Layout[ClassificationData], ...] = (
    BIRDS,
    FLOWERS,
    DOGS,
    CARS,
    AIRCRAFT,
    class_folders.SPLIT,
    class_folders.FLAT,
)
_LAYOUTS: dict[Task, Sequence[Layout[Any]]] = {"seg": SEGMENTATION, "cls": CLASSIFICATION}
_MOST_IN_A_MASK = 255


def open_segmentation(data: Path, split: str) -> SegmentationData:
    """The images and masks of a split (`train`, `val` or `test`), in whichever layout `data` has.

    If there is no `val`, a tenth of `train` is held out, always the same images, with a warning. Raises InputError for
    a folder in no known layout, a missing split, a missing label or list, and too many classes.
    """
    opened = _open(data, split, "seg", SEGMENTATION)
    if len(opened.classes) > _MOST_IN_A_MASK:
        raise InputError(
            f"{data}: got {len(opened.classes)} classes, expected at most {_MOST_IN_A_MASK} in masks of 8 bits; "
            "merge some"
        )
    return opened


def open_classification(data: Path, split: str) -> ClassificationData:
    """The images of a split (`train`, `val` or `test`) and the class of each; otherwise as `open_segmentation`."""
    return _open(data, split, "cls", CLASSIFICATION)


def open_data(data: Path, split: str, task: Task) -> LabelledData:
    """`open_segmentation` or `open_classification`, by the task."""
    return open_segmentation(data, split) if task == "seg" else open_classification(data, split)


def is_labelled(data: Path, split: str, task: Task) -> bool:
    """Whether `data` seems to be a folder with labels for a task that has such a split."""
    layout = find(data, _LAYOUTS[task])
    return layout is not None and split in offered(data, layout)


def layout_of(data: Path, task: Task) -> Layout[Any] | None:
    """The layout of a task that fits a folder, if any does."""
    return find(data, _LAYOUTS[task])


def labels_of(data: Path, task: Task) -> tuple[Task, Layout[Any]] | None:
    """The task that a folder has labels of, `task` if of both, and their layout; None without labels."""
    for each in (task, *(other for other in _LAYOUTS if other != task)):
        if layout := layout_of(data, each):
            return each, layout
    return None


def images_of(data: Path, splits: Sequence[str] = ("train",), task: Task = "seg") -> list[Path]:
    """The images of the first of these splits that `data` has, without label masks.

    For data in a known layout, of `task` if there is one, these are the images that `open_segmentation` or
    `open_classification` returns, so a held-out `val` image never counts as `train`. For other folders the split comes
    from folder names; without any, all images count as each of the splits. Raises InputError if there is no image.
    """
    labelled = labels_of(data, task)
    if labelled is None:
        return _unlabelled(data, splits)
    layout = labelled[1]
    there = offered(data, layout)
    return images_of_split(data, next((split for split in splits if split in there), splits[0]), layout)


def _unlabelled(data: Path, splits: Sequence[str]) -> list[Path]:
    found: dict[str | None, list[Path]] = {}
    for path in list_images(data):
        folders = path.relative_to(data).parts[:-1]
        if not is_label_beside(path) and not is_in_labels(path, data):
            found.setdefault(next(filter(None, map(split_of, folders)), None), []).append(path)
    there = next((split for split in splits if split in found), None)
    if there is None and None not in found:
        names = ", ".join(str(split) for split in found) or "only label masks"
        raise InputError(f"{data}: got {names}, expected images of {splits[0]}; add them", parameter="data")
    return only_readable(found[there], data)


def _open(data: Path, split: str, task: Task, layouts: Sequence[Layout[D]]) -> D:
    layout = find(data, layouts)
    if layout is None:
        raise why_unknown(data, task)
    return open_split(data, split, layout)


def why_unknown(data: Path, task: Task | None) -> InputError:
    """The error for a folder that fits no layout of the task, or of either task."""
    if not data.is_dir():
        return InputError(
            f"{data}: no such folder, expected a folder of labelled images; check the path", parameter="data"
        )
    other: Task = "cls" if task == "seg" else "seg"
    fitting = find(data, _LAYOUTS[other]) if task else None
    clash = class_folders.doubtful(data)
    if clash and not fitting:
        return InputError(
            f"{data}: got {some_of(folders_in(data), 5)}, expected to know whether {some_of(clash)} is a class; if "
            f"each of these folders is one, move them into {data / 'train'}, else call the folders images and masks",
            parameter="data",
        )
    wanted: Sequence[Layout[Any]] = _LAYOUTS[task] if task else (*SEGMENTATION, *CLASSIFICATION)
    deeper = [name for name in folders_in(data) if find(data / name, wanted)]
    advice = (
        f"choose the task {other}, which the layout {fitting.name} fits"
        if fitting
        else f"give {data / deeper[0]}"
        if deeper
        else "docs/data.md shows what each layout looks like"
    )
    found = some_of(sorted(child.name for child in data.iterdir()), 5) or "nothing"
    kinds = {"seg": "images with masks or polygons", "cls": "a folder of images per class"}
    expected = kinds[task] if task else " or ".join(kinds.values())
    return InputError(f"{data}: got {found}, expected {expected}; {advice}", parameter="task" if fitting else "data")
