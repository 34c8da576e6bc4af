"""Both tasks on the device: labelled images as tensors, views drawn on the device, and every compared model.

The models are trained with the product's loop, losses and heads; only reading and augmentation differ, because a CPU
could not feed a GPU fast enough.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones.device import reduced
from aselect_edge.bundle.model import TapModel, upsample
from aselect_edge.data import ClassificationData, SegmentationData
from aselect_edge.evaluation.measuring import Data
from aselect_edge.evaluation.metrics import Figures, Metric
from aselect_edge.heads import build_head
from aselect_edge.training.efficientnet import EfficientNetLite0
from aselect_edge.training.finetune import Unfreeze, unfreeze
from aselect_edge.training.goal import Goal
from aselect_edge.training.recipe import Recipe
from aselect_runtime import scenes
from aselect_runtime.frames import resize
from aselect_runtime.processor import processor
from aselect_runtime.records import HeadSpec, Resize, Task
from research.corpus import crop_boxes, recoloured, sample, street_pair

STREETS = 256


@dataclass(frozen=True)
class Split:
    """A split on the device."""

    pixels: Tensor
    """(N, 3, H, W) uint8, BGR: train as stored, val and test through the deployed resize."""
    labels: Tensor
    """(N,) classes, or (N, H, W) class maps in their own size."""


@dataclass(frozen=True)
class Labelled:
    """A task's data on the device."""

    task: Task
    goal: Goal
    imgsz: tuple[int, int]
    train: Split
    held: dict[str, Split]
    """val, and test if it exists."""
    streets: Split | None
    """Synthetic images that are mixed into the batches."""
    label_stride: int = 1
    """Segmentation: the loss is computed on every n-th row and column. At 288x384 in full it is a third of a step."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.goal.train.classes)

    def batch(self, generator: torch.Generator, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Augmented views: pixels (N, 3, H, W) BGR, 0..255, and labels (N, H, W) or (N,)."""
        few = int(recipe.batch * recipe.synthetic) if self.streets else 0
        parts = [self._views(generator, self.train, recipe.batch - few)]
        if self.streets and few:
            parts.append(self._views(generator, self.streets, few))
        pixels, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return recoloured(generator, pixels), labels.long()

    def _views(self, generator: torch.Generator, split: Split, count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(split.pixels), (count,), generator=generator, device=generator.device)
        images, labels = split.pixels[chosen], split.labels[chosen]
        smallest = 0.45 if self.task == "seg" else 0.35
        # Boxes are relative to the image, not to the aspect ratio of the input: the deployed resize stretches too.
        own = (images.shape[2], images.shape[3])
        boxes = crop_boxes(generator, images.shape, own, (smallest, 1.0), 1.2)
        whole = crop_boxes(generator, images.shape, own, (1.0, 1.0), 1.0)
        either = torch.rand(count, 1, 1, generator=generator, device=generator.device) < 0.5
        boxes = torch.where(either, boxes, whole)
        pixels = sample(images, boxes, self.imgsz, "bilinear")
        if labels.ndim == 1:
            return pixels, labels
        rows, columns = (side // self.label_stride for side in self.imgsz)
        return pixels, sample(labels[:, None], boxes, (rows, columns), "nearest")[:, 0]


def load_labelled(
    task: Task, goal: Goal, test: Data | None, imgsz: tuple[int, int], how: Resize, recipe: Recipe, device: torch.device
) -> Labelled:
    """Read a task's splits onto the device."""
    stored = (360, 480) if task == "seg" else (288, 288)
    held = {"val": _split(goal.val, imgsz, how, device)} | ({"test": _split(test, imgsz, how, device)} if test else {})
    streets = None
    if task == "seg" and recipe.synthetic and tuple(info.name for info in goal.train.classes) == scenes.CLASSES:
        pairs = [street_pair(index) for index in range(STREETS)]
        streets = Split(_pixels([frame for frame, _ in pairs], device), _stack([label for _, label in pairs], device))
    train = _split(goal.train, stored, how, device, labels_too=True)
    return Labelled(task, goal, imgsz, train, held, streets)


def _split(data: Data, size: tuple[int, int], how: Resize, device: torch.device, labels_too: bool = False) -> Split:
    pairs = [data.read(index) for index in range(len(data))]
    frames = [resize(frame, size, how) for frame, _ in pairs]
    if isinstance(data, ClassificationData):
        return Split(_pixels(frames, device), torch.tensor([label for _, label in pairs], device=device))
    maps = [np.asarray(label) for _, label in pairs]
    if labels_too:
        maps = [cv2.resize(each, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for each in maps]
    return Split(_pixels(frames, device), _stack(maps, device))


def _pixels(frames: list[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous().to(device)


def _stack(maps: list[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(maps)).to(device)


class TeacherModel(nn.Module):
    """The teacher with the same head: pixels (N, 3, H, W), BGR, 0..255 -> logits. The common alternative."""

    def __init__(self, encoder: EfficientNetLite0, task: Task, spec: HeadSpec, classes: int) -> None:
        super().__init__()
        self.encoder, self.task, self.edge = encoder, task, spec.kind == "edge"
        widths = [*([160] if self.edge else []), 112, 320] if task == "seg" else [320]
        self.head = build_head(spec, task, widths, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.encoder.maps(pixels.flip(1))
        middle, deep = maps[4], maps[-1]
        if self.task == "cls":
            return self.head((_last(deep),))
        deep = F.interpolate(deep, size=middle.shape[2:], mode="bilinear", align_corners=False)
        taps = [_last(middle), _last(deep)]
        if self.edge:
            taps = [_last(F.pixel_unshuffle(maps[2], 2)), *taps]
        return self.head(tuple(taps))


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def bfloat16(device: torch.device) -> AbstractContextManager[object]:
    """Context in which a forward pass runs in bfloat16: on CUDA, and on a processor with instructions for it.

    `aselect-train` always uses float32 on the CPU, because there its bundles are the same byte for byte.
    """
    if device.type == "cpu" and processor().bf16:
        return torch.autocast("cpu", torch.bfloat16)
    return reduced(device)


class DeviceLearner:
    """See aselect_edge.training.learners.Learner: a model on the device, its views drawn there.

    With `frozen`, only the head of a TapModel is trained. `guide` is a trained model of the same classes whose class
    probabilities for every view are a target; `share` of the loss is the distance to them (arXiv 1503.02531).
    """

    def __init__(
        self,
        model: nn.Module,
        data: Labelled,
        recipe: Recipe,
        device: torch.device,
        frozen: bool = False,
        guide: nn.Module | None = None,
        share: float = 0.7,
        mixup: float = 0.0,
    ) -> None:
        self.module, self.data, self.recipe, self.device = model.to(device), data, recipe, device
        self.frozen, self.guide, self.share, self.mixup = frozen, guide, share, mixup
        if isinstance(model, TapModel):
            head = list(model.head.parameters())
            body = [] if frozen else unfreeze(model, Unfreeze())
            if frozen:
                model.backbone.requires_grad_(False)
        elif isinstance(model, TeacherModel):
            head, body = list(model.head.parameters()), [] if frozen else list(model.encoder.parameters())
            model.encoder.requires_grad_(not frozen)
        else:
            head, body = list(model.parameters()), []
        self.groups = [{"params": head, "lr": recipe.learning_rate, "base": recipe.learning_rate}]
        if body:
            self.groups.append({"params": body, "lr": recipe.backbone_rate, "base": recipe.backbone_rate})

    def start(self) -> None:
        """See Learner."""
        return None

    def losses(self, step: int, rng: np.random.Generator) -> tuple[Tensor, float]:  # noqa: ARG002
        """See Learner."""
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        with torch.no_grad():
            pixels, labels = self.data.batch(generator, self.recipe)
            other, weight = labels, 1.0
            if self.mixup and self.data.task == "cls":
                weight = float(rng.beta(self.mixup, self.mixup))
                order = torch.randperm(len(pixels), generator=generator, device=self.device)
                pixels, other = torch.lerp(pixels[order], pixels, weight), labels[order]
        with bfloat16(self.device):
            logits = self._logits(pixels)
        logits = logits.float()
        loss = weight * self.data.goal.loss(logits, labels)
        if weight < 1:
            loss = loss + (1 - weight) * self.data.goal.loss(logits, other)
        if self.guide is not None:
            loss = (1 - self.share) * loss + self.share * self._distance(pixels, logits)
        return loss, loss.item()

    def _logits(self, pixels: Tensor) -> Tensor:
        model = self.module
        if self.frozen and isinstance(model, TapModel):
            with torch.no_grad():
                features = model.features(pixels)
            return model.head(features)
        return model(pixels)

    def _distance(self, pixels: Tensor, logits: Tensor) -> Tensor:
        assert self.guide is not None
        with torch.no_grad(), bfloat16(self.device):
            wanted = self.guide(pixels).float()
        if wanted.ndim == 4 and wanted.shape[2:] != logits.shape[2:]:
            wanted = upsample(wanted, (logits.shape[2], logits.shape[3]))
        return F.kl_div(logits.log_softmax(1), wanted.softmax(1), reduction="none").sum(1).mean()

    def validate(self, module: nn.Module) -> Figures:
        """See Learner."""
        return figures_on(module, self.data, "val", self.device)


@torch.no_grad()
def figures_on(module: nn.Module, data: Labelled, split: str, device: torch.device) -> Figures:
    """Figures on a held-out split, computed as in `aselect_edge.evaluation`: class maps at their label's own size."""
    was = module.training
    module.eval()
    held, classes = data.held[split], data.classes
    matrix = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    for start in range(0, len(held.pixels), 32):
        pixels, labels = held.pixels[start : start + 32].float(), held.labels[start : start + 32].long()
        logits = module(pixels).float()
        if data.task == "seg":
            answer = upsample(logits, data.imgsz).argmax(1)
            rows, columns = (
                (torch.arange(n, device=device) * m // n) for n, m in zip(labels.shape[1:], data.imgsz, strict=True)
            )
            answer = answer[:, rows][:, :, columns]
            known = labels != cast(SegmentationData, data.goal.val).ignore_index
            answer, labels = answer[known], labels[known]
        else:
            answer = logits.argmax(1)
        matrix += torch.bincount(labels * classes + answer, minlength=classes * classes)
    module.train(was)
    counts = matrix.view(classes, classes).cpu().numpy()
    right, true, seen = np.diag(counts).astype(float), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = right / (true + seen - right) if data.task == "seg" else right / true
    score = float(np.nanmean(each)) if data.task == "seg" else float(right.sum() / counts.sum())
    per_class = tuple(None if np.isnan(value) else float(value) for value in each)
    metric: Metric = "miou" if data.task == "seg" else "top1"
    return Figures(metric, score, {}, per_class, counts, len(held.pixels))
