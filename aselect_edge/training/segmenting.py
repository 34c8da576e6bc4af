"""Segmentation: one class per pixel."""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aselect_edge.bundle.model import upsample
from aselect_edge.data import SegmentationData
from aselect_edge.training.loss import dice_loss, lovasz_loss, rare_weights
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.views import SegmentationViews
from aselect_runtime.errors import InputError
from aselect_runtime.media import some_of
from aselect_runtime.records import Resize

log = logging.getLogger(__name__)

COUNTED = 200
"""Maximum label maps from which the share of pixels of each class is counted."""


class Segmenting:
    """See Goal."""

    def __init__(self, train: SegmentationData, val: SegmentationData, recipe: Recipe) -> None:
        self.train, self.val, self.recipe = train, val, recipe
        self.weights = rare_weights(_pixels_per_class(train))
        _check_val(val)

    def views(self, imgsz: tuple[int, int], how: Resize) -> SegmentationViews:
        """See Goal."""
        return SegmentationViews(self.train, imgsz, how, self.recipe)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See Goal: logits (N, C, h, w), labels (N, H, W)."""
        return segmentation_loss(logits, labels, self.weights, self.train.ignore_index, self.recipe)


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor, ignore: int, recipe: Recipe) -> Tensor:
    """Weighted cross-entropy plus `recipe.overlap_weight` times the recipe's overlap loss.

    logits (N, C, h, w) are resized bilinearly to the labels' (N, H, W), as in the deployed graph.
    """
    if (labels == ignore).all():
        return logits.sum() * 0  # the mean of no pixels would be NaN and spoil the weights
    log_probability = upsample(logits, (labels.shape[1], labels.shape[2])).log_softmax(1)
    loss = F.nll_loss(log_probability, labels, weights.to(logits.device), ignore_index=ignore)
    if not recipe.overlap_weight:
        return loss
    overlap = {"dice": dice_loss, "lovasz": lovasz_loss}[recipe.overlap]
    return loss + recipe.overlap_weight * overlap(log_probability.exp(), labels, ignore)


def _pixels_per_class(data: SegmentationData) -> Tensor:
    """Pixels per class in a sample of the label maps, and in more maps while a class has not occurred.

    Raises InputError if a class in the user's own list occurs in no label map: its pixels have another value then.
    """
    counts = np.zeros(256, np.int64)
    sample = range(0, len(data), max(1, len(data) // COUNTED))
    for index in sample:
        counts += np.bincount(data.label(index).ravel(), minlength=256)
    for index in (index for index in range(len(data)) if index not in sample):
        if counts[: len(data.classes)].all():
            break
        counts += np.bincount(data.label(index).ravel(), minlength=256)
    _refuse_absent(data, counts)
    return torch.from_numpy(counts[: len(data.classes)])


def _check_val(data: SegmentationData) -> None:
    """Raise InputError if no pixel of val has a label; warn of classes that it does not have.

    Reads label maps until every class has occurred.
    """
    there = np.zeros(256, bool)
    for index in range(len(data)):
        there[np.unique(data.label(index))] = True
        if there[: len(data.classes)].all():
            return
    absent = [info.name for index, info in enumerate(data.classes) if not there[index]]
    if len(absent) == len(data.classes):
        raise InputError(
            f"{data.pairs[0][1].parent}: got {len(data)} masks of val in which every pixel is {data.ignore_index}, no "
            "label, expected pixels of the classes; replace these masks"
        )
    log.warning(
        "val has no pixel of %s: such a class counts with an IoU of 0 as soon as one pixel is taken for it, and not at "
        "all otherwise; add images of it to val",
        some_of(absent),
    )


def _refuse_absent(data: SegmentationData, counts: NDArray[np.int64]) -> None:
    absent = [info.name for index, info in enumerate(data.classes) if not counts[index]]
    if not absent:
        return
    if data.named_in is None:
        log.warning("no mask of train has a pixel of %s; the figures do not cover these classes", some_of(absent))
        return
    void = counts[data.ignore_index] / max(1, counts.sum())
    raise InputError(
        f"{data.named_in}: got the class {some_of(absent)}, which no mask of train contains ({void:.0%} of the "
        f"pixels are {data.ignore_index}, no label), expected pixels of each class; remove the class, or correct its "
        f"value"
    )
