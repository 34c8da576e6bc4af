"""The quality of a graph: the task's metric with labels, else agreement with the FP32 graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aselect_calibration.frames import CalibrationFrames
from aselect_calibration.weights import Graph
from aselect_edge.bundle import LoadedBundle
from aselect_edge.data import is_labelled
from aselect_edge.data.spread import evenly
from aselect_edge.evaluation.metrics import Figures
from aselect_export.evaluation import accuracy, has_labels_of
from aselect_export.ladder import Trial
from aselect_export.predictors import Predictor
from aselect_export.verify import answer_of_graph
from aselect_runtime.records import Bundle

COMPARED = 64
"""Maximum number of frames on which agreement is measured."""
SCORED = 256
"""Maximum number of labelled images for one measurement of the metric, spread over the split."""


@dataclass(frozen=True)
class Yardstick:
    """The quality of a graph: a metric between 0 and 1."""

    metric: Literal["miou", "top1", "agreement"]
    images: int
    """Number of images that it is measured on."""
    fp32: float
    """The metric of the FP32 graph."""
    score: Callable[[Graph], float]


def find_yardstick(
    bundle: LoadedBundle, traced: Graph, trial: Trial, data: Path | None, frames: CalibrationFrames | None
) -> Yardstick:
    """The task metric if `data` has labels, else agreement with the FP32 graph."""
    record = bundle.record
    if data is not None and has_labels_of(data, "val", record.task, record.classes):
        before = _accuracy(traced, bundle, trial, data)
        return Yardstick(
            before.metric, before.images, before.score, lambda graph: _accuracy(graph, bundle, trial, data).score
        )
    looked_at = trial.frames if frames is None else _spread(frames, COMPARED, trial.batch)
    exact = _classes(traced, trial, looked_at)
    return Yardstick(
        "agreement", len(looked_at), 1.0, lambda graph: float((_classes(graph, trial, looked_at) == exact).mean())
    )


def has_other_classes(data: Path, record: Bundle) -> bool:
    """Whether `data` has masks that cannot score the model; False for a classifier, to which any folders look like
    classes."""
    masks = record.task == "seg" and is_labelled(data, "val", "seg")
    return masks and not has_labels_of(data, "val", "seg", record.classes)


def _accuracy(graph: Graph, bundle: LoadedBundle, trial: Trial, data: Path) -> Figures:
    """See `evaluation.accuracy`, on the validation split: `train` was used for training, `test` is for reporting."""
    output = "class_map" if trial.task == "seg" else "scores"
    record = bundle.record
    shape = (trial.batch, trial.frames.shape[1], trial.frames.shape[2])
    with closing(graph.session()) as session:

        def predict(batch: NDArray[np.uint8]) -> NDArray[Any]:
            return session.infer(batch, [output])[output]

        model = Predictor(record.task, record.classes, record.resize, shape, predict, session.device)
        return accuracy(model, data, "val", most=SCORED)


def _classes(graph: Graph, trial: Trial, frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    with closing(graph.session()) as session:
        return answer_of_graph(session, trial.task, frames, trial.batch).classes


def _spread(frames: CalibrationFrames, most: int, batch: int) -> NDArray[np.uint8]:
    """Up to `most` of the frames in whole batches, evenly spaced."""
    count = max(batch, min(most, len(frames)) // batch * batch)
    wanted = set(evenly(len(frames), count))
    return np.stack([frame for index, frame in enumerate(frames) if index in wanted])
