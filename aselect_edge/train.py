"""Training a segmentation model on a selected tap: a head on frozen features, or the truncated blocks as well."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aselect_edge import scenes
from aselect_edge.augment import Augmentation, labelled_view
from aselect_edge.data import SegmentationData
from aselect_edge.denoise import Denoising, window_positions
from aselect_edge.errors import InputError, IntegrityError
from aselect_edge.files import atomic_write
from aselect_edge.frames import Frame, resize, restore
from aselect_edge.metrics import Confusion
from aselect_edge.perception import Perception
from aselect_edge.records import Resize

_DECODED_BYTES = 400_000_000
"""Decoded frames kept in memory; beyond that they are read again."""

Report = Callable[[str, float], None]
"""Told what is being done and the share that is done, 0 to 1."""


@dataclass(frozen=True)
class Recipe:
    """Budget and optimiser; `samples` counts frames seen."""

    samples: int = 16_000
    batch: int = 8
    learning_rate: float = 2e-3
    backbone_rate: float = 5e-4
    weight_decay: float = 0.03
    warmup: int = 100
    ema: float = 0.998
    dice: float = 0.5
    denoising: float = 0.2
    """Weight of the generative loss when fine-tuning; 0 leaves it out."""
    denoising_windows: int = 8
    denoising_every: int = 4
    """Steps from one generative step to the next."""
    window: int = 64
    synthetic: float = 0.1
    """Share of synthetic streets in a batch; only where the classes are CamVid's."""
    views: int = 8
    """Augmented views per frame whose frozen features are computed once."""
    validations: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The model with its best weights on val, and the learning curve."""

    model: Perception
    val_miou: float
    curve: tuple[tuple[int, float, float], ...]
    """(samples seen, mean training loss, val mIoU)."""


class Frames:
    """Training views: labelled frames of a split, mixed with synthetic streets where the classes allow it."""

    def __init__(self, data: SegmentationData, imgsz: tuple[int, int], how: Resize, recipe: Recipe) -> None:
        self.data, self.imgsz, self.how, self.recipe = data, imgsz, how, recipe
        streets = tuple(info.name for info in data.classes) == scenes.CLASSES
        self.streets = [scenes.Street(seed=s, height=240, width=320) for s in range(64 if streets else 0)]
        self.pool: list[tuple[Frame, Frame]] = []
        self.decoded: dict[int, tuple[Frame, Frame]] = {}

    def view(self, rng: np.random.Generator, index: int | None = None) -> tuple[Frame, Frame]:
        """One augmented (frame, label); a random or synthetic one without an index."""
        if index is None and self.streets and rng.random() < self.recipe.synthetic:
            frame, label = self._street(rng)
        else:
            frame, label = self._labelled(int(rng.integers(len(self.data))) if index is None else index)
        ignore = self.data.ignore_index
        return labelled_view(rng, frame, label, self.imgsz, self.how, ignore, Augmentation())

    def batch(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """pixels (N, 3, H, W) float BGR, labels (N, H, W) int64."""
        views = [self.view(rng) for _ in range(count)]
        return to_pixels(np.stack([f for f, _ in views])), torch.from_numpy(np.stack([y for _, y in views])).long()

    def _labelled(self, index: int) -> tuple[Frame, Frame]:
        if index not in self.decoded:
            pair = self.data.read(index)
            if len(self.decoded) * pair[0].nbytes > _DECODED_BYTES:
                return pair
            self.decoded[index] = pair
        return self.decoded[index]

    def _street(self, rng: np.random.Generator) -> tuple[Frame, Frame]:
        # Drawing a street takes as long as training on it, so a pool grows slowly and is drawn from.
        if len(self.pool) < 256:
            street = self.streets[int(rng.integers(len(self.streets)))]
            self.pool.append(street.frame(int(rng.integers(2000))))
            return self.pool[-1]
        return self.pool[int(rng.integers(len(self.pool)))]


def to_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W), still BGR and 0..255."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().contiguous()


def class_weights(data: SegmentationData) -> Tensor:
    """Weights (C,) of the cross-entropy: inverse square root of the pixel share, mean 1, at most 5."""
    counts = np.zeros(256, np.int64)
    for index in range(0, len(data), max(1, len(data) // 200)):
        counts += np.bincount(data.read(index)[1].ravel(), minlength=256)
    share = counts[: len(data.classes)] / max(1, counts[: len(data.classes)].sum())
    weights = 1 / np.sqrt(np.maximum(share, 1e-4))
    return torch.from_numpy(np.minimum(weights / weights.mean(), 5.0)).float()


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor, ignore: int, dice: float) -> Tensor:
    """Weighted cross-entropy plus `dice` times the soft Dice loss (Milletari et al., arXiv 1606.04797).

    logits (N, C, h, w) are brought bilinearly to the labels' (N, H, W), as the deployed graph does.
    """
    if (labels == ignore).all():
        return logits.sum() * 0  # a mean over nothing would be NaN, and the weights with it
    logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logits, labels, weights, ignore_index=ignore)
    if not dice:
        return loss
    known = (labels != ignore)[:, None]
    one_hot = F.one_hot(labels.where(known[:, 0], 0), logits.shape[1]).permute(0, 3, 1, 2) * known
    probability = logits.softmax(1) * known
    overlap = (probability * one_hot).sum((0, 2, 3))
    total = probability.sum((0, 2, 3)) + one_hot.sum((0, 2, 3))
    present = one_hot.sum((0, 2, 3)) > 0
    return loss + dice * (1 - (2 * overlap + 1) / (total + 1))[present].mean()


@torch.no_grad()
def evaluate(model: nn.Module, data: SegmentationData, imgsz: tuple[int, int], how: Resize) -> Confusion:
    """Confusion of a model (pixels -> logits) over a split, each prediction compared at its label's own size."""
    model.eval()
    confusion = Confusion(len(data.classes), data.ignore_index)
    for index in range(len(data)):
        frame, label = data.read(index)
        logits = model(to_pixels(resize(frame, imgsz, how)[None]))
        logits = F.interpolate(logits, imgsz, mode="bilinear", align_corners=False)
        class_map = logits.argmax(1)[0].to(torch.uint8).numpy()
        confusion.update(restore(class_map, label.shape, how), label)
    return confusion


class _Batches:
    """Endless training batches for the part that learns: pixels, or features of the frozen backbone."""

    def __init__(self, frames: Frames, model: Perception, recipe: Recipe, finetune: bool, report: Report) -> None:
        self.frames, self.recipe, self.finetune = frames, recipe, finetune
        self.features: list[tuple[Tensor, ...]] = []
        self.labels: list[Tensor] = []
        if finetune:
            return
        folded = model.deployed().backbone
        rng = np.random.default_rng((recipe.seed, 1))
        total = len(frames.data) * recipe.views
        for number in range(total):
            frame, label = frames.view(rng, number % len(frames.data))
            with torch.no_grad():
                self.features.append(tuple(f[0].half() for f in folded(to_pixels(frame[None]))))
            self.labels.append(torch.from_numpy(label))
            report("features", (number + 1) / total)

    def __call__(self, rng: np.random.Generator) -> tuple[Any, Tensor]:
        if self.finetune:
            return self.frames.batch(rng, self.recipe.batch)
        chosen = rng.integers(len(self.labels), size=self.recipe.batch)
        maps = zip(*(self.features[i] for i in chosen), strict=True)
        return tuple(torch.stack(m).float() for m in maps), torch.stack([self.labels[i] for i in chosen]).long()


def train_segmentation(
    model: Perception,
    train: SegmentationData,
    val: SegmentationData,
    how: Resize,
    recipe: Recipe,
    workdir: Path,
    schedule: dict[str, Any] | None = None,
    finetune: bool = False,
    report: Report = lambda _what, _share: None,
) -> Outcome:
    """Train `model` in place and return it with its best averaged weights on val.

    Frozen, only the head learns, on features computed once per augmented view. With `finetune`, the backbone
    learns too, jointly with its denoising loss (`schedule` says at which noise). A checkpoint in `workdir`
    resumes an interrupted run of the same recipe.
    """
    torch.manual_seed(recipe.seed)
    if finetune and schedule is None:
        raise InputError("got no noise schedule, expected the backbone's own for fine-tuning; pass schedule=")
    batches = _Batches(Frames(train, model.imgsz, how, recipe), model, recipe, finetune, report)
    learner = model if finetune else model.head
    groups = [{"params": list(model.head.parameters()), "lr": recipe.learning_rate, "base": recipe.learning_rate}]
    if finetune:
        groups.append({"params": list(model.backbone.parameters()), "lr": 0.0, "base": recipe.backbone_rate})
    optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    denoising = Denoising(schedule or {}, torch.device("cpu")) if finetune and recipe.denoising else None
    weights, steps = class_weights(train), max(1, recipe.samples // recipe.batch)
    every = max(1, steps // recipe.validations)
    task = _task(model, train, how, recipe, finetune)
    state = _Progress.resume(workdir, task, model, average, optimiser)
    while state.step < steps:
        rng = np.random.default_rng((recipe.seed, 2, state.step))
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * _rate(state.step, steps, recipe.warmup)
        learner.train()
        inputs, labels = batches(rng)
        logits = model(inputs) if finetune else model.head(inputs)
        loss = segmentation_loss(logits, labels, weights, train.ignore_index, recipe.dice)
        state.loss_sum += loss.item()
        if denoising and state.step % recipe.denoising_every == 0:
            loss = loss + recipe.denoising * _denoise(denoising, model, inputs, rng, recipe)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model)
        state.step += 1
        report(f"train, loss {loss.item():.3f}, val mIoU {state.best:.3f}", state.step / steps)
        if state.step % every == 0 or state.step == steps:
            miou = evaluate(average.module, val, model.imgsz, how).miou()
            state.validated(miou, recipe, average)
            state.save(workdir, task, model, average, optimiser)
    model.load_state_dict(state.best_weights)
    return Outcome(model.eval(), state.best, tuple(state.curve))


def _task(model: Perception, data: SegmentationData, how: Resize, recipe: Recipe, finetune: bool) -> str:
    """What is trained, as JSON: a checkpoint is only resumed by the same."""
    digest = hashlib.sha256()
    for tensor in model.backbone.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    content = {
        "recipe": asdict(recipe),
        "finetune": finetune,
        "backbone": digest.hexdigest(),
        "head": str(model.head),
        "taps": [str(tap) for tap in model.taps],
        "noise": model.noise.model_dump(),
        "noise_seed": model.noise_seed,
        "imgsz": model.imgsz,
        "resize": how.model_dump(),
        "classes": [info.name for info in data.classes],
    }
    return json.dumps(content)


def _rate(step: int, steps: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _denoise(loss: Denoising, model: Perception, pixels: Tensor, rng: np.random.Generator, recipe: Recipe) -> Tensor:
    """The generative loss on small windows of this batch's frames, a fraction of the cost of whole frames."""
    count, backbone = recipe.denoising_windows, model.backbone
    positions, corners = window_positions(backbone, rng, recipe.window, model.imgsz, count)
    side_h, side_w = (min(recipe.window, side) for side in model.imgsz)
    windows = [pixels[i % len(pixels), :, y : y + side_h, x : x + side_w] for i, (y, x) in enumerate(corners)]
    x0 = torch.stack(windows).flip(1) / 127.5 - 1
    return loss(backbone, x0, torch.full((count,), backbone.null_label), positions)


class _Progress:
    """Where a run stands; what a checkpoint holds beside weights."""

    def __init__(self) -> None:
        self.step, self.best, self.loss_sum = 0, -1.0, 0.0
        self.curve: list[tuple[int, float, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self.started = time.monotonic()

    def validated(self, miou: float, recipe: Recipe, average: AveragedModel) -> None:
        since = self.step - (self.curve[-1][0] // recipe.batch if self.curve else 0)
        self.curve.append((self.step * recipe.batch, self.loss_sum / since, miou))
        self.loss_sum = 0.0
        if miou > self.best:
            self.best = miou
            self.best_weights = {k: v.clone() for k, v in average.module.state_dict().items()}

    def save(self, workdir: Path, task: str, *parts: Any) -> None:
        states = [part.state_dict() for part in parts]
        content = {"task": task, "step": self.step, "best": self.best, "curve": self.curve}
        # Through bytes, because torch reports a full disk as an error of its own kind.
        stream = io.BytesIO()
        torch.save({**content, "states": states, "best_weights": self.best_weights}, stream)
        atomic_write(workdir / "checkpoint.pt", stream.getvalue())
        text = io.StringIO()
        csv.writer(text).writerows([("samples", "loss", "val_miou"), *self.curve])
        atomic_write(workdir / "curve.csv", text.getvalue())

    @classmethod
    def resume(cls, workdir: Path, task: str, *parts: Any) -> _Progress:
        progress, path = cls(), workdir / "checkpoint.pt"
        if not path.is_file():
            return progress
        try:
            content = torch.load(path, weights_only=True)
        except Exception as error:  # torch.load raises many unrelated kinds on what it did not write
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IntegrityError(f"{path}: unreadable ({reason}), expected a checkpoint; remove it") from error
        if not isinstance(content, dict) or content.get("task") != task:
            raise InputError(
                f"{path}: got a checkpoint of another backbone, tap, size or recipe, expected this run's; remove it "
                "or choose another --out"
            )
        for part, state in zip(parts, content["states"], strict=True):
            part.load_state_dict(state)
        progress.step, progress.best = content["step"], content["best"]
        progress.curve, progress.best_weights = list(content["curve"]), content["best_weights"]
        return progress
