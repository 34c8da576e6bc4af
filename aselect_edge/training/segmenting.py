"""Segmentation: a class for every pixel."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.bundle.model import upsample
from aselect_edge.data import SegmentationData
from aselect_edge.training.loss import dice_loss, lovasz_loss, rare_weights
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.views import SegmentationViews
from aselect_runtime.records import Resize

COUNTED = 200
"""Label maps, at most, that say how much of the pixels each class has."""


class Segmenting:
    """See Goal."""

    def __init__(self, train: SegmentationData, val: SegmentationData, recipe: Recipe) -> None:
        self.train, self.val, self.recipe = train, val, recipe
        self.weights = rare_weights(_pixels_per_class(train))

    def views(self, imgsz: tuple[int, int], how: Resize) -> SegmentationViews:
        """See Goal."""
        return SegmentationViews(self.train, imgsz, how, self.recipe)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See Goal: logits (N, C, h, w), labels (N, H, W)."""
        return segmentation_loss(logits, labels, self.weights, self.train.ignore_index, self.recipe)


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor, ignore: int, recipe: Recipe) -> Tensor:
    """Weighted cross-entropy plus `recipe.overlap_weight` times the overlap loss that the recipe names.

    logits (N, C, h, w) are brought bilinearly to the labels' (N, H, W), as the deployed graph does.
    """
    if (labels == ignore).all():
        return logits.sum() * 0  # a mean over nothing would be NaN, and the weights with it
    logits = upsample(logits, (labels.shape[1], labels.shape[2]))
    loss = F.cross_entropy(logits, labels, weights.to(logits.device), ignore_index=ignore)
    if not recipe.overlap_weight:
        return loss
    overlap = {"dice": dice_loss, "lovasz": lovasz_loss}[recipe.overlap]
    return loss + recipe.overlap_weight * overlap(logits.softmax(1), labels, ignore)


def _pixels_per_class(data: SegmentationData) -> Tensor:
    counts = np.zeros(256, np.int64)
    for index in range(0, len(data), max(1, len(data) // COUNTED)):
        counts += np.bincount(data.read(index)[1].ravel(), minlength=256)
    return torch.from_numpy(counts[: len(data.classes)])
