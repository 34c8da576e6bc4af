"""Classification: one class per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.data import ClassificationData
from aselect_edge.training.loss import rare_weights
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.views import ClassificationViews
from aselect_runtime.records import Resize


class Classifying:
    """See Goal."""

    def __init__(self, train: ClassificationData, val: ClassificationData, recipe: Recipe) -> None:
        self.train, self.val, self.recipe = train, val, recipe
        self.weights = rare_weights(torch.bincount(torch.tensor(train.labels), minlength=len(train.classes)))

    def views(self, imgsz: tuple[int, int], how: Resize) -> ClassificationViews:
        """See Goal."""
        return ClassificationViews(self.train, imgsz, how, self.recipe)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See Goal: logits (N, C), labels (N,); weighted cross-entropy with label smoothing."""
        return F.cross_entropy(
            logits, labels, self.weights.to(logits.device), label_smoothing=self.recipe.label_smoothing
        )
