"""Every compared model on the device, trained with the product's loop, losses and heads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones.device import reduced
from aselect_edge.bundle.model import TapModel, upsample
from aselect_edge.evaluation.metrics import Figures, Metric
from aselect_edge.heads import build_head
from aselect_edge.training.efficientnet import EfficientNetLite0
from aselect_edge.training.finetune import Unfreeze, unfreeze
from aselect_edge.training.recipe import Recipe
from aselect_runtime.frames import NEAREST, stretched
from aselect_runtime.processor import processor
from aselect_runtime.records import HeadSpec, Task
from research.corpus import mixed
from research.row_data import Labelled


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
    probabilities for every view are a target; `share` of the loss is the distance to them (arXiv 1503.02531). In
    segmentation, `blended` of a guided batch are blends of two images, which have that target alone
    (arXiv 2106.05237).
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
        blended: float = 0.25,
    ) -> None:
        # A GPU's convolutions in reduced precision are fastest with the channels last, and those of the guide, which
        # is a CNN, on a CPU too.
        layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
        self.module, self.data, self.recipe, self.device = _moved(model, device, layout), data, recipe, device
        self.guide = None if guide is None else _moved(guide, device, torch.channels_last)
        self.frozen, self.share, self.mixup, self.blended = frozen, share, mixup, blended
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
        self.groups = [{"params": head, "lr": recipe.learning_rate}]
        if body:
            self.groups.append({"params": body, "lr": recipe.backbone_rate})

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
            if self.guide is not None and self.data.task == "seg":
                pixels = mixed(generator, pixels, self.blended)
                labels[: int(len(labels) * self.blended)] = self.data.ignored
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
            wanted = self.guide(pixels.contiguous(memory_format=torch.channels_last)).float()
        if wanted.ndim == 4 and wanted.shape[2:] != logits.shape[2:]:
            wanted = upsample(wanted, (logits.shape[2], logits.shape[3]))
        return F.kl_div(logits.log_softmax(1), wanted.softmax(1), reduction="none").sum(1).mean()

    def validate(self, module: nn.Module) -> Figures:
        """See Learner."""
        return figures_on(module, self.data, "val", self.device)


def _moved(model: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    return cast(nn.Module, model.to(device=device, memory_format=layout))  # type: ignore[call-overload]


def _nearest(count: int, of: int) -> Tensor:
    """The indices (count,) among `of` pixels of an axis that `restore` enlarges to `count`."""
    return torch.from_numpy(stretched(np.arange(of, dtype=np.float32)[:, None], (count, 1), NEAREST)[:, 0]).long()


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
            rows, columns = (_nearest(n, m).to(device) for n, m in zip(labels.shape[1:], data.imgsz, strict=True))
            answer = answer[:, rows][:, :, columns]
            known = labels != data.ignored
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
