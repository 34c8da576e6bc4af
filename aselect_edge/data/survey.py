"""What is in a folder: the layout, its splits, how many images of each class, their sizes, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aselect_edge.data.classes import told_single
from aselect_edge.data.intact import size_as_read
from aselect_edge.data.layout import Layout, broken_images, offered
from aselect_edge.data.readers import images_of, layout_of, open_data, why_unknown
from aselect_edge.data.repeats import told_twice
from aselect_edge.data.sets import ClassificationData, LabelledData, SegmentationData
from aselect_edge.data.spread import evenly
from aselect_runtime.errors import InputError
from aselect_runtime.media import some_of
from aselect_runtime.records import Task

LOOKED_AT = 200
"""Images of a split, at most, whose label map and size are read."""
EXAMPLES = 4
TASKS: tuple[Task, ...] = ("seg", "cls")


@dataclass(frozen=True)
class ClassCount:
    """How much of a class a split has."""

    name: str
    images: int
    """Classification: of the class. Segmentation: of those looked at, with at least a pixel of it."""
    share: float
    """Classification: of the images. Segmentation: of the labelled pixels that were looked at."""


@dataclass(frozen=True)
class SplitSurvey:
    """One split, as training would read it."""

    name: str
    images: int
    held_out: bool
    """Whether it has no folder or list of its own, but is a part of `train`."""
    classes: tuple[ClassCount, ...]
    sizes: tuple[tuple[int, int], ...]
    """Height and width of the images looked at, each size once, the most frequent first."""
    looked_at: int
    """Images whose sizes, and label maps, were read."""
    examples: tuple[Path, ...]
    """A few of the images."""


@dataclass(frozen=True)
class Survey:
    """What a folder holds. Without a known layout `task` is None and there are no splits."""

    data: Path
    task: Task | None
    layout: str
    tree: str
    """What the layout is recognised by."""
    splits: tuple[SplitSurvey, ...]
    unreadable: tuple[Path, ...]
    problems: tuple[str, ...]
    """What training would refuse or suffer from, a line each."""
    images: int
    """All images, labelled or not, where no layout fits."""
    refused: bool = False
    """Whether training refuses the folder as it is."""

    @property
    def train(self) -> SplitSurvey | None:
        """The split that is learnt from, if it can be read."""
        return next((split for split in self.splits if split.name == "train"), None)


def survey(data: Path, task: Task | None = None) -> Survey:
    """Look at a folder as training would read it; `task` decides where labels of both tasks are found.

    Label maps and sizes of at most LOOKED_AT images a split are read. Raises InputError if there is no folder.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder, expected one of images; check the path", parameter="data")
    fitting = [(each, layout) for each in ((task,) if task else TASKS) if (layout := layout_of(data, each))]
    if not fitting:
        return _unlabelled(data, task)
    found, layout = fitting[0]
    splits: list[SplitSurvey] = []
    opened: dict[str, LabelledData] = {}
    problems: list[str] = []
    refusals: list[str] = []
    unreadable: list[Path] = []
    for name in _splits(data, layout, refusals):
        stored, faulty = name in layout.splits(data), problems if name == "test" else refusals
        try:
            unreadable += broken_images(data, name, layout) if stored else []
            opened[name] = open_data(data, name, found)
            part, faults = _split(opened[name], name, held_out=not stored)
        except InputError as error:
            faulty.append(str(error))
            continue
        splits.append(part)
        faulty += faults
    refusals += _untrainable(data, opened, splits)
    if "train" in opened:
        problems += told_twice(opened["train"], {name: part for name, part in opened.items() if name != "train"})
    problems += _imbalances(found, splits)
    told, broken = (*refusals, *problems), tuple(unreadable)
    return Survey(data, found, layout.name, layout.tree, tuple(splits), broken, told, 0, refused=bool(refusals))


def _untrainable(data: Path, opened: Mapping[str, LabelledData], splits: Sequence[SplitSurvey]) -> list[str]:
    """What training says of the classes of `train`, if all of its labels were looked at."""
    train = next((split for split in splits if split.name == "train"), None)
    seen = opened.get("train")
    if train is None or (isinstance(seen, SegmentationData) and train.looked_at < train.images):
        return []
    there = [each.name for each in train.classes if each.images]
    if len(there) == 1:
        return [told_single(data, there)]
    absent = [each.name for each in train.classes if not each.images]
    if there and absent and isinstance(seen, SegmentationData) and seen.named_in is not None:
        return [f"{seen.named_in}: got the class {some_of(absent)}, which no mask of train contains; remove it"]
    return []


def _splits(data: Path, layout: Layout[Any], problems: list[str]) -> list[str]:
    try:
        return offered(data, layout)
    except InputError as error:
        problems.append(str(error))
        return []


def _unlabelled(data: Path, task: Task | None) -> Survey:
    """A folder in no layout: how many images there are, and why their labels are not understood."""
    problems = [str(why_unknown(data, task))]
    found: set[Path] = set()
    for split in ("train", "val", "test"):
        try:
            found.update(images_of(data, (split,)))
        except InputError as error:
            problems += [str(error)] if split == "train" else []
    return Survey(data, None, "", "", (), (), tuple(problems), len(found))


def _split(opened: LabelledData, name: str, *, held_out: bool) -> tuple[SplitSurvey, list[str]]:
    count = min(LOOKED_AT, len(opened))
    chosen = evenly(len(opened), count)
    if isinstance(opened, SegmentationData):
        classes, faults = _pixels(opened, chosen)
    else:
        classes, faults = _members(opened), []
    sizes = Counter(size_as_read(opened.path(index)) for index in chosen)
    ordered = tuple(size for size, _ in sizes.most_common())
    examples = tuple(opened.path(index) for index in chosen[:EXAMPLES])
    return SplitSurvey(name, len(opened), held_out, classes, ordered, count, examples), faults


def _members(opened: ClassificationData) -> tuple[ClassCount, ...]:
    counts = Counter(opened.labels)
    return tuple(
        ClassCount(info.name, counts[index], counts[index] / len(opened)) for index, info in enumerate(opened.classes)
    )


def _pixels(opened: SegmentationData, chosen: Sequence[int]) -> tuple[tuple[ClassCount, ...], list[str]]:
    """The classes in some label maps, and what is wrong with those that cannot be read."""
    images, pixels, faults = np.zeros(256, np.int64), np.zeros(256, np.int64), []
    for index in chosen:
        try:
            counts = np.bincount(opened.read(index)[1].ravel(), minlength=256)
        except InputError as error:
            faults.append(str(error))
            continue
        images, pixels = images + (counts > 0), pixels + counts
    total = max(1, int(pixels[: len(opened.classes)].sum()))
    classes = tuple(
        ClassCount(info.name, int(images[at]), float(pixels[at] / total)) for at, info in enumerate(opened.classes)
    )
    return classes, faults


IMBALANCE = 20.0
"""A class with so many times the images, or pixels, of another one hides it in the figures."""
FEW = 10
"""Training images of a class, below which little can be learnt of it."""


def _imbalances(task: Task, splits: Sequence[SplitSurvey]) -> list[str]:
    """Absent, rare and very unequal classes of `train`."""
    train = next((split for split in splits if split.name == "train"), None)
    if train is None or not train.classes:
        return []
    there = [each for each in train.classes if each.images]
    lines = [f"train has no {'pixel' if task == 'seg' else 'image'} of {_names(train.classes, 0, 0)}"]
    lines = lines if len(there) < len(train.classes) else []
    if not there:
        return lines
    if rare := _names(train.classes, 1, FEW - 1):
        what = "with a pixel of" if task == "seg" else "of"
        looked = f" among the {train.looked_at} looked at" if task == "seg" and train.looked_at < train.images else ""
        lines.append(f"train has fewer than {FEW} images {what} {rare}{looked}: add images of them")
    most, least = max(there, key=lambda each: each.share), min(there, key=lambda each: each.share)
    if most.share > IMBALANCE * least.share:
        unit = "pixels" if task == "seg" else "images"
        lines.append(
            f"train has {most.share / least.share:.0f} times as many {unit} of {most.name} as of {least.name}: look at "
            "the figures of each class, not only at the mean"
        )
    return lines


def _names(classes: Sequence[ClassCount], least: int, most: int) -> str:
    return some_of([each.name for each in classes if least <= each.images <= most], 5)
