"""Trainable modules: a head on cached features of a frozen backbone, or a head together with its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from aselect_edge.backbones.device import reduced
from aselect_edge.bundle.model import TapModel
from aselect_edge.evaluation.measuring import batches
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.heads import Head
from aselect_edge.team import ALONE, Team
from aselect_edge.training.answers import figures_of
from aselect_edge.training.cache import FrozenFrames, FrozenViews
from aselect_edge.training.closed_form import DAMPINGS, SCALES, is_linear, moments, set_linear
from aselect_edge.training.finetune import Noising, Unfreeze, joint_loss, unfreeze
from aselect_edge.training.goal import Goal
from aselect_edge.training.identity import Digests
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.sharing import part_of, whole_rows
from aselect_edge.training.views import to_pixels
from aselect_runtime.progress import Progress
from aselect_runtime.records import Resize


class Measured(Protocol):
    """The result of a validation."""

    @property
    def metric(self) -> str:
        """Name of the measure that `score` is."""

    @property
    def score(self) -> float:
        """0 to 1; larger is better."""

    @property
    def loss(self) -> float:
        """The loss on the same images; NaN if it is not computed."""


M = TypeVar("M", bound=Measured, covariant=True)


class Learner(Protocol[M]):
    """The module that the loop trains, averages and validates."""

    module: nn.Module
    groups: list[dict[str, Any]]
    """Parameter groups of the optimiser, each with its peak learning rate as `base`."""

    def start(self) -> float | None:
        """Set weights that need no training, if any, and return their loss; None if there are none."""

    def losses(self, step: int, rng: np.random.Generator) -> tuple[Tensor, float]:
        """The loss to minimise over the next batch, and the task's share of it."""

    def validate(self, module: nn.Module) -> M:
        """Figures on val, and the loss there, of `module`, which is this learner's module or its average."""


class HeadLearner:
    """Only the head; the folded backbone runs once per view and once per frame of val."""

    def __init__(
        self,
        model: TapModel,
        goal: Goal,
        how: Resize,
        recipe: Recipe,
        digests: Digests,
        *,
        folder: Path,
        progress: Progress,
        device: torch.device,
        team: Team = ALONE,
    ) -> None:
        """`folder` stores the features. The model is folded on the CPU; then its head moves to `device`."""
        backbone = model.deployed().to(device)
        self.module: nn.Module = model.head.to(device)
        self.device, self.team = device, team
        self.goal, self.imgsz, self.how = goal, model.imgsz, how
        self.groups = [{"params": list(model.head.parameters()), "lr": recipe.learning_rate}]

        def extract(pixels: Tensor) -> tuple[Tensor, ...]:
            return backbone.features(pixels.to(device))

        keys = [f"{digests.features} {split}" for split in (digests.train, digests.val)]
        self.views = FrozenViews(goal.views(model.imgsz, how), extract, keys[0], folder / "train", progress, team)
        self.frames = FrozenFrames(goal.val, model.imgsz, how, extract, keys[1], folder / "val", progress, team=team)

    @torch.no_grad()
    def start(self) -> float | None:
        """See Learner: a linear head starts from the ridge regression that is best on val."""
        head = self.module
        if not (isinstance(head, Head) and is_linear(head)):
            return None
        parts = ((self._moved(maps), labels) for maps, labels in self.views.parts())
        classes, ignore = len(self.goal.train.classes), getattr(self.goal.train, "ignore_index", -1)
        sums = moments(head, parts, classes, ignore, len(self.views))

        def figure(solution: tuple[Tensor, Tensor]) -> float:
            set_linear(head, *solution)
            return self.validate(head).score

        solutions = [sums.solve(damping) for damping in DAMPINGS]
        weight, bias = max(solutions, key=figure)
        head.train()

        def loss(scale: float) -> float:
            set_linear(head, scale * weight, scale * bias)
            return sum(self.losses(0, np.random.default_rng(n))[1] for n in range(4)) / 4

        least, scale = min((loss(scale), scale) for scale in SCALES)
        set_linear(head, scale * weight, scale * bias)
        return least

    def losses(self, step: int, rng: np.random.Generator) -> tuple[Tensor, float]:  # noqa: ARG002
        """See Learner."""
        features, labels = self.views.batch(rng)
        loss = self.goal.loss(self.module(self._moved(features)), labels.to(self.device))
        return loss, loss.item()

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Figures:
        """See Learner."""
        module.eval()
        mine = self.frames.some(self.team.share(range(len(self.frames))))
        seen = ((module(self._moved(features)), [label]) for features, label, _ in mine)
        return figures_of(seen, self.goal, self.imgsz, self.how, self.team)

    def _moved(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(each.to(self.device) for each in features)


class ModelLearner:
    """The head and parts of the backbone, with the denoising loss if the backbone can denoise."""

    def __init__(
        self,
        model: TapModel,
        goal: Goal,
        how: Resize,
        recipe: Recipe,
        *,
        what: Unfreeze,
        noising: Noising | None,
        device: torch.device,
        team: Team = ALONE,
    ) -> None:
        """`what` of the backbone is trained; without `noising`, which is on `device`, only by the task's loss."""
        self.module: nn.Module = model.to(device)
        self.device, self.team = device, team
        self.model, self.goal, self.how, self.recipe = model, goal, how, recipe
        self.noising = noising if recipe.denoising else None
        learning = unfreeze(model, what)
        self.groups: list[dict[str, Any]] = [
            {"params": list(model.head.parameters()), "lr": recipe.learning_rate},
            {"params": learning, "lr": recipe.backbone_rate},
        ]
        self.views = goal.views(model.imgsz, how)

    def start(self) -> float | None:
        """See Learner."""
        return None

    def losses(self, step: int, rng: np.random.Generator) -> tuple[Tensor, float]:
        """See Learner."""
        pixels, labels = (each.to(self.device) for each in self.views.batch(rng))
        with reduced(self.device):
            mine = self.model.features(part_of(self.team, pixels))
            logits = self.model.head(tuple(whole_rows(self.team, rows, len(pixels)) for rows in mine))
        task = self.goal.loss(logits.float(), labels)
        if self.noising is None or step % self.recipe.denoising_every:
            return task, task.item()
        return joint_loss(task, self.model, pixels, self.noising, rng, self.recipe, self.team), task.item()

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Figures:
        """See Learner."""
        module.eval()
        mine = batches(self.goal.val, self.model.imgsz, self.how, self.recipe.batch, self.team)
        seen = ((module(to_pixels(np.stack(frames)).to(self.device)), labels) for _, frames, labels in mine)
        return figures_of(seen, self.goal, self.model.imgsz, self.how, self.team)
