"""What a small ImageNet encoder with a linear head reaches on the same data: the figure that a run is to exceed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.data import LabelledData
from aselect_edge.data.spread import evenly
from aselect_edge.evaluation import score_of
from aselect_edge.evaluation.measuring import batches
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.heads import build_head
from aselect_edge.training.answers import answers
from aselect_edge.training.closed_form import DAMPINGS, Batch, moments, set_linear
from aselect_edge.training.efficientnet import EfficientNetLite0, Features, installed_weights, load_efficientnet
from aselect_edge.training.goal import Goal
from aselect_edge.training.views import to_pixels
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, resize_label
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import HeadSpec, Resize, Task

ENCODER = "ImageNet encoder"
"""What it is called in plots: EfficientNet-Lite0."""
MOST = 1000
"""Images of `train`, spread over it, on which the head is fitted."""
BATCH = 8
"""Images in a forward pass."""


def compare(task: Task, goal: Goal, imgsz: tuple[int, int], how: Resize, progress: Progress = silent) -> Figures | None:
    """Figures on val of EfficientNet-Lite0, frozen, with a ridge regression on its features of whole images.

    For segmentation these are the maps of strides 16 and 32, for classification the pooled features. None if the
    weights, which are optional, are not installed.
    """
    try:
        encoder = load_efficientnet(installed_weights())
    except InputError:
        return None
    train, (middle, deep, pooled) = _some(goal.train), encoder.widths
    classes, ignore = len(goal.train.classes), getattr(goal.train, "ignore_index", -1)
    width = pooled if task == "cls" else middle + deep
    head = build_head(HeadSpec(kind="linear", channels=1), task, [width], classes).eval().requires_grad_(False)
    rows: Iterator[Batch] = (
        ((_features(encoder, task, frames),), _targets(labels, task, imgsz, how, ignore))
        for _, frames, labels in _reported(train, imgsz, how, progress)
    )
    sums = moments(head, rows, classes, ignore, len(train))
    solutions = [sums.solve(damping) for damping in DAMPINGS]
    scores = [score_of(goal.val, how) for _ in solutions]
    for _, frames, labels in batches(goal.val, imgsz, how, BATCH):
        maps = (_features(encoder, task, frames),)
        for score, solution in zip(scores, solutions, strict=True):
            set_linear(head, *solution)
            for answer, label in zip(answers(head(maps), goal.val, imgsz), labels, strict=True):
                score.add(answer, label)
    return max((score.figures() for score in scores), key=lambda figures: figures.score)


def _some(data: LabelledData) -> LabelledData:
    return data.subset(evenly(len(data), min(MOST, len(data))))


def _reported(
    data: LabelledData, imgsz: tuple[int, int], how: Resize, progress: Progress
) -> Iterator[tuple[int, list[Frame], list[Any]]]:
    for done, frames, labels in batches(data, imgsz, how, BATCH):
        progress(f"comparing with an {ENCODER}", done / len(data))
        yield done, frames, labels


@torch.no_grad()
def _features(encoder: EfficientNetLite0, task: Task, frames: list[Frame]) -> Tensor:
    """(N, rows, columns, D) of frames uint8 [H, W, 3], BGR; one token of an image to classify."""
    seen: Features = encoder(to_pixels(np.stack(frames)).flip(1))
    if task == "cls":
        return seen.pooled[:, None, None]
    deep = F.interpolate(seen.deep, seen.middle.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([seen.middle, deep], dim=1).permute(0, 2, 3, 1)


def _targets(labels: list[Any], task: Task, imgsz: tuple[int, int], how: Resize, ignore: int) -> Tensor:
    if task == "cls":
        return torch.as_tensor(labels).long()
    return torch.from_numpy(np.stack([resize_label(label, imgsz, how, ignore) for label in labels])).long()


def told(figures: Figures) -> str:
    """One line about it."""
    name = {"miou": "mIoU", "top1": "top-1 accuracy"}[figures.metric]
    return f"a small {ENCODER} (EfficientNet-Lite0) with a linear head reaches val {name} {figures.score:.3f} here"
