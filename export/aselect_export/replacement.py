"""The gate of an encoder that stands in for the full one: how much of the task's accuracy it costs.

The tokens of a distilled stem, or of another autoencoder, are none that could equal the full model's. What counts is
the task: mIoU or top-1 where there are labels, else the share of pixels or images with the full model's class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aselect_calibration.weights import Graph
from aselect_edge.bundle import FoldedTapModel, LoadedBundle
from aselect_edge.bundle.tiny import replaced
from aselect_edge.data import images_of
from aselect_edge.data.spread import evenly
from aselect_edge.fold import encoder_cost
from aselect_edge.selection.evidence import open_images
from aselect_export.evaluation import accuracy, has_labels_of
from aselect_export.graph import DeployedGraph
from aselect_export.ladder import Trial
from aselect_export.predictors import Predictor
from aselect_export.yardstick import SCORED
from aselect_runtime.errors import GateError
from aselect_runtime.frames import Frame, read_image, resize
from aselect_runtime.progress import Progress
from aselect_runtime.records import EncoderCost, Replacement, Task

MAX_DROP = 0.01
"""Of mIoU, top-1 or agreement, by default."""
COMPARED: dict[Task, int] = {"seg": 64, "cls": 256}
"""Most images on which agreement is measured: one image of a classification is one answer."""

Predict = Callable[[Frame], NDArray[Any]]
"""Frames uint8 [N, H, W, 3] -> class_map [N, H, W] or scores [N, C]."""


def hold_against_full(
    full: LoadedBundle,
    chosen: LoadedBundle,
    traced: Graph,
    trial: Trial,
    data: Path,
    cost: EncoderCost,
    limit: float | None,
    progress: Progress,
) -> Replacement:
    """Measure the FP32 graph of a bundle with another encoder beside the model with its own one.

    `cost` is that of the encoder in the graph. Raises GateError where the drop is larger than `limit`, or InputError
    for data that cannot be read.
    """
    assert chosen.encoder != "full"
    progress(f"comparing the {chosen.encoder} encoder with the full one", 0.0)
    size = (trial.frames.shape[1], trial.frames.shape[2])
    limit = MAX_DROP if limit is None else limit
    whole = full.deployed(size)
    original = DeployedGraph(whole, trial.task).eval()

    def exact(frames: Frame) -> NDArray[Any]:
        with torch.inference_mode():
            answer: NDArray[Any] = original(torch.from_numpy(frames))[0].numpy()
        return answer

    session = traced.session()
    name = "class_map" if trial.task == "seg" else "scores"
    try:
        ways = exact, lambda frames: session.infer(frames, [name])[name]
        metric, images, before, after = _measured(full, trial, data, size, *ways)
    finally:
        session.close()
    found = Replacement(
        encoder=chosen.encoder,
        replaced=replaced(full.backbone(lean=True).encoder),
        by="a distilled stem" if chosen.vae is None else f"AutoencoderTiny ({chosen.vae})",
        metric=metric,
        images=images,
        full=before,
        deployed=after,
        max_drop=limit,
        full_cost=tokens_cost(whole, size),
        cost=cost,
    )
    if before - after > limit:
        raise GateError(_missed(found), parameter=("max_drop", "encoder"))
    return found


def tokens_cost(model: FoldedTapModel, size: tuple[int, int]) -> EncoderCost:
    """What a deployed model spends until there are tokens, on one frame of `size`."""
    return encoder_cost(nn.Sequential(model.encoder, model.backbone.get_submodule("embed.conv")), size)


def told(found: Replacement) -> str:
    """What was replaced and what it costs, in one line."""
    return (
        f"{found.by} replaces {found.replaced}: {found.metric} {found.deployed:.4f} instead of {found.full:.4f} on "
        f"{found.images} images, {found.cost.macs / 1e9:.3f} G multiply-accumulates a frame instead of "
        f"{found.full_cost.macs / 1e9:.3f} G"
    )


def _measured(
    full: LoadedBundle, trial: Trial, data: Path, size: tuple[int, int], exact: Predict, other: Predict
) -> tuple[Literal["miou", "top1", "agreement"], int, float, float]:
    """The metric, on how many images it was measured, and its values with the full encoder and with the other one."""
    record = full.record
    if not data.is_file() and has_labels_of(data, "val", record.task, record.classes):
        shape = (trial.batch, *size)
        both = [
            accuracy(Predictor(record.task, record.classes, record.resize, shape, way, "cpu"), data, "val", most=SCORED)
            for way in (exact, other)
        ]
        return both[0].metric, both[0].images, both[0].score, both[1].score
    reads = _reads(data, COMPARED[trial.task], trial.task)
    same = []
    for start in range(0, len(reads), trial.batch):
        # The last batch is filled up with its last image, which counts once.
        some = [reads[min(start + index, len(reads) - 1)] for index in range(trial.batch)]
        frames = np.stack([resize(read(), size, record.resize) for read in some])
        here = min(trial.batch, len(reads) - start)
        classes = [way(frames) if trial.task == "seg" else way(frames).argmax(1) for way in (exact, other)]
        same += [(classes[0][index] == classes[1][index]).mean() for index in range(here)]
    return "agreement", len(reads), 1.0, float(np.mean(same))


def _reads(data: Path, most: int, task: Task) -> list[Callable[[], Frame]]:
    """At most so many images, spread over the validation images of a folder, or over a video."""
    if data.is_file():
        return list(open_images(data, most, 0, task).reads)
    paths = images_of(data, ("val", "test", "train"), task)
    return [partial(read_image, paths[index]) for index in evenly(len(paths), min(most, len(paths)))]


def _missed(found: Replacement) -> str:
    lost = found.full - found.deployed
    ways = "distil on more samples or a wider stem" if found.encoder == "distilled" else "give another autoencoder"
    return (
        f"the encoder {found.encoder} loses {lost:.5f} of {found.metric} ({found.deployed:.4f} instead of "
        f"{found.full:.4f} on {found.images} images), expected at most {found.max_drop:g}; {ways}, allow a drop of "
        f"{np.ceil(lost * 1e4) / 1e4:g}, or use the encoder full"
    )
