"""The models of the rows: built, started from earlier weights, and the trained teacher that guides them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.bundle import TapModel, load_bundle, tap_model
from aselect_edge.heads import build_head
from aselect_edge.training.efficientnet import load_efficientnet
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.run import randomised
from aselect_runtime.errors import InputError
from aselect_runtime.records import Bundle, Selection
from benchmarks.cnn import build_cnn
from research.row_data import Labelled
from research.row_jobs import SETTINGS, Job, Sources
from research.row_learner import TeacherModel


@dataclass(frozen=True)
class Prepared:
    """A job with everything needed to train it."""

    job: Job
    recipe: Recipe
    record: Bundle
    selection: Selection
    backbone: LoadedBackbone
    data: Labelled


def build_model(ready: Prepared, sources: Sources) -> tuple[nn.Module, bool]:
    """The row's model with fresh weights of torch's seed, and whether its backbone is frozen."""
    if "start" in ready.job.changes and ready.job.row in ("teacher", "cnn"):
        raise InputError(
            f"got a bundle to start from for the row {ready.job.row}, expected one of the DiT; leave it out"
        )
    job, plan, backbone, classes = ready.job, SETTINGS[ready.job.task], ready.backbone, ready.data.classes
    if job.row == "teacher":
        return TeacherModel(load_efficientnet(sources.teacher), job.task, plan.head, classes), False
    if job.row == "cnn":
        return build_cnn(job.task, classes, plan.cnn_width), False
    if job.row.endswith("random"):
        backbone = randomised(backbone, job.seed)
    widths = [backbone.model.width] * len(ready.record.taps)
    head = build_head(ready.record.head, job.task, widths, classes)
    model = tap_model(backbone, head, ready.record)
    if "start" in job.changes:
        _start_from(model, ready.record, Path(job.changes["start"]))
    return model, job.row.startswith("frozen")


def _start_from(model: TapModel, record: Bundle, path: Path) -> None:
    """Copy the weights of a bundle, or of an interrupted row; raises InputError if classes, taps or head are others."""
    if path.suffix == ".safetensors":
        _copy_weights(model, path)
        return
    start = load_bundle(path)
    for what in ("classes", "taps", "head"):
        got, expected = getattr(start.record, what), getattr(record, what)
        if got != expected:
            raise InputError(f"{path}: got {what} {got}, expected {expected}; start from another bundle")
    model.load_state_dict(start.reference().state_dict(), strict=False)  # without the blocks after the taps


def _copy_weights(model: TapModel, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{path}: got no weights of this row's model ({str(error).splitlines()[0]}), expected those of the same "
            "task, taps and head; start from another file"
        ) from error


def load_guide(ready: Prepared, sources: Sources, device: torch.device) -> nn.Module:
    """The trained teacher of seed 0; waits for it if another worker of a GPU run may still be training it."""
    task, path = ready.job.task, sources.out / f"{ready.job.task}-teacher-0.safetensors"
    while sources.concurrent and not path.is_file() and not (sources.out / f"{task}-teacher-0.error").is_file():
        time.sleep(0.5)  # the parent process stops this one when the time is over
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, expected the teacher that guides {ready.job.name}; train its row first"
        )
    model = TeacherModel(load_efficientnet(sources.teacher), task, SETTINGS[task].head, ready.data.classes)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False).to(device)
