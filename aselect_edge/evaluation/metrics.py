"""The figures of both tasks, computed by torchmetrics.

torchmetrics is imported at the first count, because it imports torch, transformers and SciPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from aselect_edge.team import Team

Metric = Literal["miou", "top1"]


@dataclass(frozen=True)
class Figures:
    """The accuracy of the answers to a split; shares, 0 to 1."""

    metric: Metric
    """mIoU (segmentation) or top-1 accuracy (classification)."""
    score: float
    others: dict[str, float]
    """Segmentation: `pixel_accuracy`, `mean_accuracy`; classification: `mean_accuracy` and, of more than 5 classes,
    `top5`. `mean_accuracy` is the mean over classes of their recall."""
    per_class: tuple[float | None, ...]
    """IoU, or recall; None for a class that is absent."""
    matrix: NDArray[np.int64]
    """Counts (true class, predicted class)."""
    images: int
    loss: float = math.nan
    """The mean over images of the loss that was trained on, where the answers came with one."""


class Confusion:
    """Counts (true class, predicted class) over label maps; `ignore` marks pixels without a label."""

    def __init__(self, classes: int, ignore: int) -> None:
        from torchmetrics.classification import MulticlassJaccardIndex

        self.classes = classes
        self._counts = MulticlassJaccardIndex(
            classes,
            average="none",
            ignore_index=ignore,
            zero_division=math.nan,
            validate_args=False,
            sync_on_compute=False,  # counts are added by `together`; not every process computes figures
        )

    def update(self, prediction: NDArray[Any], target: NDArray[Any]) -> None:
        """Count the pixels of one prediction and its target, integer arrays of the same shape."""
        import torch

        self._counts.update(torch.tensor(prediction), torch.tensor(target))

    def together(self, team: Team) -> None:
        """Add the counts of the other processes of a team."""
        self._counts.confmat = team.sum(self._counts.confmat)

    @property
    def matrix(self) -> NDArray[np.int64]:
        """The counts so far, (C, C)."""
        counts: NDArray[np.int64] = self._counts.confmat.numpy()
        return counts

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class (C,); NaN for a class that is neither in the labels nor predicted."""
        if not self.matrix.any():
            return np.full(self.classes, np.nan)
        return np.atleast_1d(self._counts.compute().double().numpy())

    def found(self) -> NDArray[np.float64]:
        """Recall per class (C,); NaN for a class that is not in the labels."""
        there = self.matrix.sum(axis=1)
        shares: NDArray[np.float64] = np.full(self.classes, np.nan)
        np.divide(np.diag(self.matrix), there, out=shares, where=there > 0)
        return shares

    def miou(self) -> float:
        """Mean of `iou` over the classes that have one; 0 if none has."""
        return _mean(self.iou())

    def mean_accuracy(self) -> float:
        """Mean of `found` over the classes in the labels; 0 if there are none."""
        return _mean(self.found())

    def accuracy(self) -> float:
        """Share of labelled pixels with the right class; 0 if there are no labelled pixels."""
        total = self.matrix.sum()
        return float(np.trace(self.matrix) / total) if total else 0.0


class TopAccuracy:
    """The share of images whose class is among the `top` highest scores."""

    def __init__(self, classes: int, top: int) -> None:
        from torchmetrics.classification import MulticlassAccuracy

        self._counts = MulticlassAccuracy(
            classes, top_k=top, average="micro", validate_args=False, sync_on_compute=False
        )

    def update(self, scores: NDArray[Any], label: int) -> None:
        """Count one image's scores (C,)."""
        import torch

        self._counts.update(torch.tensor(scores[None]), torch.tensor([label]))

    def together(self, team: Team) -> None:
        """Add the counts of the other processes of a team."""
        for name in ("tp", "fp", "tn", "fn"):
            setattr(self._counts, name, team.sum(getattr(self._counts, name)))

    def share(self) -> float:
        """The share over the images so far (at least one)."""
        return float(self._counts.compute())


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0
