"""What is to be learned: a task's data, views and loss behind one interface, so that the loop is independent of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from torch import Tensor

from aselect_edge.data import LabelledData, open_classification, open_segmentation
from aselect_edge.data.classes import refuse_single
from aselect_edge.training.classifying import Classifying
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.segmenting import Segmenting
from aselect_edge.training.views import Views
from aselect_runtime.records import Resize, Task

log = logging.getLogger(__name__)


class Goal(Protocol):
    """A task on a labelled folder."""

    @property
    def train(self) -> LabelledData:
        """The training split."""

    @property
    def val(self) -> LabelledData:
        """The split that selects the best weights."""

    def views(self, imgsz: tuple[int, int], how: Resize) -> Views:
        """Random views of `train` at model size."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The task's loss over a batch of views, a scalar."""


def open_goal(task: Task, data: Path, recipe: Recipe) -> Goal:
    """The task on the splits `train` and `val` of a folder; raises InputError.

    Warns if val is held out of train, and of classes without an image. Raises InputError for a single class, and for
    a val without a label, whose figures would mean nothing.
    """
    if task == "seg":
        maps = open_segmentation(data, "train")
        refuse_single(data, [info.name for info in maps.classes])
        return Segmenting(maps, open_segmentation(data, "val"), recipe)
    train, val = open_classification(data, "train"), open_classification(data, "val")
    refuse_single(data, [train.classes[label].name for label in sorted({*train.labels})])
    for split, opened in (("train", train), ("val", val)):
        absent = [info.name for index, info in enumerate(opened.classes) if index not in opened.labels]
        if absent:
            names = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
            log.warning("%s: %s has no image of %s; its figures do not cover these classes", data, split, names)
    return Classifying(train, val, recipe)
