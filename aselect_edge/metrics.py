"""Segmentation figures from one confusion matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Confusion:
    """Counts (true class, predicted class) over label maps; `ignore` marks pixels without a label."""

    def __init__(self, classes: int, ignore: int) -> None:
        self.classes, self.ignore = classes, ignore
        self.matrix: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def update(self, prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """Count the pixels of one prediction and its target, integer arrays of the same shape."""
        known = target != self.ignore
        pairs = target[known].astype(np.int64) * self.classes + prediction[known]
        self.matrix += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class (C,); NaN for a class that is neither there nor predicted."""
        hit = np.diag(self.matrix).astype(np.float64)
        union = self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - hit
        iou: NDArray[np.float64] = np.full(self.classes, np.nan)
        np.divide(hit, union, out=iou, where=union > 0)
        return iou

    def miou(self) -> float:
        """Mean of `iou` over the classes that have one; 0 if none has."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0

    def accuracy(self) -> float:
        """Share of labelled pixels with the right class; 0 if there is none."""
        total = self.matrix.sum()
        return float(np.trace(self.matrix) / total) if total else 0.0
