"""The one way of measuring segmentation: torch, ONNX and engines are compared by the same figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from aselect_edge.data import SegmentationData
from aselect_edge.frames import Frame, resize, restore
from aselect_edge.metrics import Confusion
from aselect_edge.records import Resize

Predict = Callable[[Frame], Frame]
"""Frames uint8 [N, H, W, 3] at model size -> class maps uint8 [N, H, W]."""


def segmentation_confusion(
    predict: Predict,
    data: SegmentationData,
    size: tuple[int, int],
    how: Resize,
    batch: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Confusion:
    """Confusion over a split, each prediction brought back to its label's own size and compared there.

    A last batch that is not full is padded by repeating its last frame, because a graph's batch is fixed.
    `progress` is told the images done and their number.
    """
    confusion = Confusion(len(data.classes), data.ignore_index)
    for done, (frames, labels) in _batches(data, size, how, batch):
        filled = frames + frames[-1:] * (batch - len(frames))
        for class_map, label in zip(predict(np.stack(filled)), labels, strict=False):
            confusion.update(restore(class_map, label.shape, how), label)
        progress(done, len(data))
    return confusion


def _batches(
    data: SegmentationData, size: tuple[int, int], how: Resize, batch: int
) -> Iterator[tuple[int, tuple[list[Frame], list[Frame]]]]:
    for start in range(0, len(data), batch):
        pairs = [data.read(index) for index in range(start, min(start + batch, len(data)))]
        frames = [resize(frame, size, how) for frame, _ in pairs]
        yield start + len(pairs), (frames, [label for _, label in pairs])
