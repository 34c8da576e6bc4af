"""How long selection and training of the shipped backbone will take here, measured on a few batches, and the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle.model import TapModel, upsample
from aselect_edge.selection.run import Request, prepare_scan, select_tap
from aselect_edge.selection.strategies import STRATEGIES
from aselect_edge.team import Team
from aselect_edge.training.cache import CHUNK
from aselect_edge.training.recipe import RECIPES, Recipe
from aselect_edge.training.request import TrainRequest
from aselect_edge.training.run import bundle_record, fresh_model
from aselect_edge.training.segmenting import segmentation_loss
from aselect_runtime.frames import read_image
from aselect_runtime.records import ClassInfo, HeadSpec, Task

STEPS = 3
"""Batches that are measured, after one that is not."""


@dataclass(frozen=True)
class Work:
    """What is to be trained."""

    task: Task
    data: Path
    images: tuple[Path, ...]
    """A few of `train`, to measure how long reading takes."""
    train: int
    """Images."""
    val: int
    classes: tuple[ClassInfo, ...]
    imgsz: tuple[int, int]
    head: HeadSpec


@dataclass(frozen=True)
class Forecast:
    """Estimates for this machine."""

    select_seconds: float
    """Of the strategy probe."""
    feature_seconds: float
    """Features of the views of `train` and of the images of `val`, once."""
    train_seconds: float
    """The steps of the head on them."""
    views: int
    """Whose features are kept."""
    cache_bytes: int
    """They need on the disk."""
    free_bytes: int
    """There are in the working folder."""


def forecast(work: Work) -> Forecast:
    """Measure a few batches of the shipped backbone and a fresh head, which takes seconds."""
    recipe, backbone = RECIPES[work.task], load_backbone("shipped")
    selection = select_tap(backbone)
    request = TrainRequest(work.task, backbone, selection, work.data, Path("out"), imgsz=work.imgsz, head=work.head)
    record = bundle_record(request, backbone, work.classes, (selection.tap,), work.head)
    model = fresh_model(backbone, record, recipe.seed)
    deployed, pixels = model.deployed(), torch.rand(CHUNK, 3, *work.imgsz) * 255
    maps = deployed.features(pixels)
    scan = prepare_scan(backbone, Request(strategy="probe", task=work.task, imgsz=work.imgsz, batch=CHUNK), Team())
    with torch.no_grad():
        look = _seconds(lambda: scan.features(backbone.x0(pixels), selection.noise)) / CHUNK
        pass_ = _seconds(lambda: deployed.features(pixels)) / CHUNK
    read = _seconds(lambda: [read_image(path) for path in work.images]) / max(1, len(work.images))
    row = sum(each[0].numel() * 2 for each in maps)
    with_label = row + (work.imgsz[0] * work.imgsz[1] if work.task == "seg" else 8)
    views = min(work.train * recipe.views, max(1, recipe.cache_bytes // with_label))
    most = STRATEGIES["probe"].images
    return Forecast(
        select_seconds=len(scan.levels) * (min(most, work.train) + min(most, work.val)) * look,
        feature_seconds=(views + work.val) * (read + pass_),
        train_seconds=max(1, recipe.samples // recipe.batch) * _step(model, maps, work, recipe),
        views=views,
        cache_bytes=views * with_label + work.val * row,
        free_bytes=shutil.disk_usage(Path.cwd()).free,
    )


def _step(model: TapModel, maps: tuple[Tensor, ...], work: Work, recipe: Recipe) -> float:
    """Seconds of a step of the head on a batch of features."""
    rows = torch.arange(recipe.batch) % len(maps[0])
    batch = tuple(each[rows].float() for each in maps)
    shape = (recipe.batch, *work.imgsz) if work.task == "seg" else (recipe.batch,)
    labels = torch.randint(len(work.classes), shape)

    def step() -> None:
        logits = model.head(batch)
        if work.task == "seg":
            weights = torch.ones(len(work.classes))
            segmentation_loss(upsample(logits, work.imgsz), labels, weights, -1, recipe).backward()
        else:
            F.cross_entropy(logits, labels).backward()

    return _seconds(step)


def _seconds(work: Callable[[], object]) -> float:
    """Of one call, the mean over STEPS after a first one."""
    work()
    began = time.perf_counter()
    for _ in range(STEPS):
        work()
    return (time.perf_counter() - began) / STEPS
