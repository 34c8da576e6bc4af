"""The two doors, and what else is asked of a folder before it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aselect_edge.data import class_folders, mask_folders
from aselect_edge.data.ade20k import ADE20K
from aselect_edge.data.aircraft import AIRCRAFT
from aselect_edge.data.birds import BIRDS
from aselect_edge.data.cars import CARS
from aselect_edge.data.cityscapes import CITYSCAPES
from aselect_edge.data.coco_panoptic import COCO_PANOPTIC
from aselect_edge.data.colour_masks import CVAT
from aselect_edge.data.dogs import DOGS
from aselect_edge.data.flowers import FLOWERS
from aselect_edge.data.layout import D, Layout, find, offered, open_split
from aselect_edge.data.sets import ClassificationData, SegmentationData
from aselect_edge.data.voc import VOC
from aselect_runtime.errors import InputError
from aselect_runtime.media import split_images
from aselect_runtime.records import Task

# The first that fits is taken: what only one set has comes before what many have.
SEGMENTATION: tuple[Layout[SegmentationData], ...] = (
    CVAT,
    VOC,
    COCO_PANOPTIC,
    ADE20K,
    CITYSCAPES,
    mask_folders.SPLIT,
    mask_folders.FLAT,
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

    Where there is no `val`, a tenth of `train` is held out, always the same images, with a warning. Raises
    InputError for a folder in no known layout, a split that is not there, a missing partner or list, too many classes.
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


def is_labelled(data: Path, split: str, task: Task) -> bool:
    """Whether `data` looks like a folder with labels of a task that has such a split."""
    layout = find(data, _LAYOUTS[task])
    return layout is not None and split in offered(data, layout)


def training_images(data: Path) -> list[Path]:
    """The images that may be learned from, labels aside: of data in a known layout `train`'s, else all in `data`."""
    layouts: Sequence[Layout[Any]] = () if (data / "train").is_dir() else (*SEGMENTATION, *CLASSIFICATION)
    layout = find(data, layouts)
    if layout is None:
        return split_images(data, ("train",))
    opened = open_split(data, "train", layout)
    return [opened.path(index) for index in range(len(opened))]


def _open(data: Path, split: str, task: Task, layouts: Sequence[Layout[D]]) -> D:
    layout = find(data, layouts)
    if layout is None:
        raise _unknown(data, task)
    return open_split(data, split, layout)


def _unknown(data: Path, task: Task) -> InputError:
    """The error about a folder in no layout of the task."""
    if not data.is_dir():
        return InputError(f"{data}: no such folder, expected one of labelled images; check it", parameter="data")
    other: Task = "cls" if task == "seg" else "seg"
    fitting = find(data, _LAYOUTS[other])
    advice = f"take the task {other}, which {fitting.name} fits" if fitting else "check the folder"
    known = "; ".join(f"{layout.name}: {layout.tree}" for layout in _LAYOUTS[task])
    found = sorted(child.name for child in data.iterdir())
    some = ", ".join(found[:5]) + (" …" if len(found) > 5 else "") if found else "nothing"
    return InputError(
        f"{data}: got {some}, expected one of these layouts ({known}); {advice}",
        parameter="task" if fitting else "data",
    )
