"""What distillation minimises: the error of the tokens, of the taps' features, and of the answers."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.bundle.model import TapModel, upsample
from aselect_edge.distillation.views import UnlabelledViews
from aselect_edge.fold import Stem, detached_embedding, encoder_cost
from aselect_edge.training.cache import FrozenViews
from aselect_edge.training.identity import features_digest
from aselect_edge.training.recipe import Recipe
from aselect_runtime.progress import Progress
from aselect_runtime.records import EncoderCost, StemSpec, Task

MEASURED = 256
"""Views of which the spread of tokens and features is measured."""
FLOOR = 1e-2
"""Of the mean variance of all channels: a channel that varies less counts as one that varies so much."""


@dataclass(frozen=True)
class Match:
    """How near a stem comes to the full model on the held-out images."""

    agreement: float
    """Share of pixels, or of images, with the same class."""
    explained: float
    """Share of the variance of the features, channel by channel."""

    @property
    def metric(self) -> str:
        """See Measured."""
        return "explained"

    @property
    def score(self) -> float:
        """What chooses the best weights. Not the agreement: a head with a favourite class agrees before it learns."""
        return max(0.0, self.explained)

    @property
    def loss(self) -> float:
        """See Measured."""
        return math.nan


class StemLearner:
    """A stem and a copy of the head; what the full model says of each view is computed once and kept on disk."""

    def __init__(
        self,
        full: TapModel,
        task: Task,
        spec: StemSpec,
        views: tuple[UnlabelledViews, UnlabelledViews],
        recipe: Recipe,
        folder: Path,
        progress: Progress,
        device: torch.device,
    ) -> None:
        """`full` stays as it is; its folded backbone is what both encoders' tokens pass through, on `device`."""
        deployed = full.deployed()
        encoder = nn.Sequential(deployed.encoder, detached_embedding(deployed.backbone)).to(device)
        self.full_cost: EncoderCost = encoder_cost(encoder, full.imgsz)
        self.backbone, self.head = deployed.backbone.to(device), deployed.head.to(device)
        self.discard = deployed.discard.to(device)
        self.task, self.imgsz, self.device = task, full.imgsz, device

        def extract(pixels: Tensor) -> tuple[Tensor, ...]:
            tokens = encoder(pixels.to(device))
            return tokens.permute(0, 2, 3, 1), *self.discard(self.backbone(tokens))

        key = f"tokens {features_digest(full)}"
        self.views, self.held_out = (
            FrozenViews(some, extract, key, folder / name, progress)
            for some, name in zip(views, ("train", "val"), strict=True)
        )
        self.spread = self._spread()
        stem = Stem(spec)
        mean, variance = self.spread[0].cpu()
        stem.centre(mean, variance.sqrt())
        self.cost = encoder_cost(stem.deployed(), full.imgsz)
        head = copy.deepcopy(full.head).requires_grad_(True)
        self.module: nn.Module = nn.ModuleDict({"stem": stem, "head": head}).to(device)
        rate = recipe.learning_rate
        self.groups: list[dict[str, Any]] = [{"params": list(self.module.parameters()), "lr": rate}]

    def parts(self) -> tuple[Stem, nn.Module]:
        """The stem and the head that goes with it."""
        assert isinstance(self.module, nn.ModuleDict)
        stem = self.module["stem"]
        assert isinstance(stem, Stem)
        return stem, self.module["head"]

    def start(self) -> None:
        """See Learner."""
        return None

    def losses(self, step: int, rng: np.random.Generator) -> tuple[Tensor, float]:  # noqa: ARG002
        """See Learner; the task's share is the divergence of the answers."""
        maps, frames = self.views.batch(rng)
        expected = tuple(each.to(self.device) for each in maps)
        seen, logits = self._run(self.module, frames)
        errors = [self._error(index, got, expected[index]) for index, got in enumerate(seen)]
        with torch.no_grad():
            said = F.log_softmax(self.head(expected[1:]), 1)
        answers = F.kl_div(F.log_softmax(logits, 1), said, reduction="none", log_target=True).sum(1).mean()
        return errors[0] + sum(errors[1:], start=answers.new_zeros(())) / len(errors[1:]) + answers, answers.item()

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Match:
        """See Learner."""
        module.eval()
        same: list[Tensor] = []
        errors = count = 0.0
        for maps, frames in self.held_out.parts(8):
            expected = tuple(each.to(self.device) for each in maps)
            seen, logits = self._run(module, frames)
            same.append((self._classes(logits) == self._classes(self.head(expected[1:]))).float().flatten(1).mean(1))
            of_taps = [float(self._error(n, seen[n], expected[n])) for n in range(1, len(seen))]
            errors, count = errors + len(frames) * sum(of_taps), count + len(frames) * len(of_taps)
        return Match(float(torch.cat(same).mean()), 1 - errors / count)

    def _run(self, module: nn.Module, frames: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Tokens and features of frames (N, H, W, 3), each (N, rows, columns, D), and logits."""
        assert isinstance(module, nn.ModuleDict)
        tokens = module["stem"](frames.to(self.device).permute(0, 3, 1, 2).float())
        features = self.discard(self.backbone(tokens))
        return (tokens.permute(0, 2, 3, 1), *features), module["head"](features)

    def _error(self, index: int, got: Tensor, expected: Tensor) -> Tensor:
        """Mean over the channels of the squared error, as a share of each channel's variance."""
        return ((got - expected).square() / self.spread[index][1]).mean()

    def _classes(self, logits: Tensor) -> Tensor:
        return (upsample(logits, self.imgsz) if self.task == "seg" else logits[:, :, None]).argmax(1)

    def _spread(self) -> list[Tensor]:
        """Mean and variance (2, D) of the tokens and of each tap's features, over the first views."""
        counted, sums = 0, [torch.zeros(2, maps.shape[-1], dtype=torch.float64) for maps in self.views.maps]
        for maps, _ in islice(self.views.parts(16), MEASURED // 16):
            flat = [each.flatten(0, 2).double() for each in maps]
            sums = [total + torch.stack([v.sum(0), v.square().sum(0)]) for total, v in zip(sums, flat, strict=True)]
            counted += len(flat[0])
        return [_spread_of(total / counted).to(self.device) for total in sums]


def _spread_of(moments: Tensor) -> Tensor:
    """Mean and variance (2, D), this bounded from below, of the first two moments (2, D)."""
    mean, square = moments
    variance = (square - mean.square()).clamp_min(0)
    return torch.stack([mean, variance.clamp_min(max(FLOOR * float(variance.mean()), 1e-12))]).float()
