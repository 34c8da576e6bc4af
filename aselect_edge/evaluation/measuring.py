"""The shared measurement: torch, ONNX, engines, training and the INT8 accuracy check use the same figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aselect_edge.data import ClassificationData, LabelledData, SegmentationData
from aselect_edge.evaluation.metrics import Confusion, Figures, TopAccuracy
from aselect_edge.team import ALONE, Team
from aselect_runtime.frames import Frame, resize, restore
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Resize

Answers = NDArray[Any]
"""Class maps uint8 [N, h, w] at model size, or scores [N, C] of each class."""
Predict = Callable[[Frame], Answers]
"""Frames uint8 [N, H, W, 3] at model size -> answers."""

NO_CLASS = -1
TOP = 5


class Score(Protocol):
    """Compares answers with labels, one by one."""

    def add(self, answer: Answers, label: Any) -> None:
        """Count one answer, without the N of a batch, and its label as `data.read` gives it."""

    def together(self, team: Team) -> None:
        """Add what the other processes of a team have counted."""

    def figures(self) -> Figures:
        """The figures of the answers counted so far."""


class SegmentationScore:
    """Each class map is resized to its label's size and compared there."""

    def __init__(self, data: SegmentationData, how: Resize) -> None:
        self._how, self._images = how, 0
        self.confusion = Confusion(len(data.classes), data.ignore_index)

    def add(self, answer: Answers, label: Frame) -> None:
        """See Score."""
        self.confusion.update(restore(answer, label.shape, self._how), label)
        self._images += 1

    def together(self, team: Team) -> None:
        """See Score."""
        self.confusion.together(team)
        self._images = _total(team, self._images)

    def figures(self) -> Figures:
        """See Score."""
        counted = self.confusion
        others = {"pixel_accuracy": counted.accuracy(), "mean_accuracy": counted.mean_accuracy()}
        return Figures("miou", counted.miou(), others, _per_class(counted.iou()), counted.matrix, self._images)


class ClassificationScore:
    """Compares the class of the highest score with the label."""

    def __init__(self, data: ClassificationData) -> None:
        classes = len(data.classes)
        self.confusion = Confusion(classes, NO_CLASS)
        self._images = 0
        self._top = TopAccuracy(classes, TOP) if classes > TOP else None

    def add(self, answer: Answers, label: int) -> None:
        """See Score."""
        self.confusion.update(answer[None].argmax(1), np.array([label]))
        if self._top:
            self._top.update(answer, label)
        self._images += 1

    def together(self, team: Team) -> None:
        """See Score."""
        self.confusion.together(team)
        self._images = _total(team, self._images)
        if self._top:
            self._top.together(team)

    def figures(self) -> Figures:
        """See Score."""
        counted = self.confusion
        others = {"mean_accuracy": counted.mean_accuracy()}
        if self._top and self._images:
            others[f"top{TOP}"] = self._top.share()
        return Figures("top1", counted.accuracy(), others, _per_class(counted.found()), counted.matrix, self._images)


def score_of(data: LabelledData, how: Resize) -> Score:
    """A new score for the answers to a split."""
    return SegmentationScore(data, how) if isinstance(data, SegmentationData) else ClassificationScore(data)


def measure(
    predict: Predict,
    data: LabelledData,
    size: tuple[int, int],
    how: Resize,
    batch: int = 1,
    progress: Progress = silent,
    team: Team = ALONE,
) -> Figures:
    """The figures of a model over a split; the processes of a `team` share its batches, and all get the figures.

    An incomplete last batch is padded by repeating its last frame, because a graph's batch size is fixed.
    """
    score = score_of(data, how)
    starts = team.share(range(0, len(data), batch))
    for number, (_, frames, labels) in enumerate(batches(data, size, how, batch, team), 1):
        filled = frames + frames[-1:] * (batch - len(frames))
        for answer, label in zip(predict(np.stack(filled)), labels, strict=False):
            score.add(answer, label)
        progress(f"evaluating {len(data)} images", number / len(starts))
    score.together(team)
    return score.figures()


def batches(
    data: LabelledData, size: tuple[int, int], how: Resize, batch: int, team: Team = ALONE
) -> Iterator[tuple[int, list[Frame], list[Any]]]:
    """(images so far, frames at model size, labels as `data.read` gives them), at most `batch` at a time.

    Of a `team` each process gets its share of them.
    """
    for start in team.share(range(0, len(data), batch)):
        pairs = [data.read(index) for index in range(start, min(start + batch, len(data)))]
        yield start + len(pairs), [resize(frame, size, how) for frame, _ in pairs], [label for _, label in pairs]


def _total(team: Team, count: int) -> int:
    if team.size == 1:
        return count
    import torch

    return int(team.sum(torch.tensor(count)))


def _per_class(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)
