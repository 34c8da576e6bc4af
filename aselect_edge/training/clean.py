"""Clean features: a copy of a backbone learns to give from the clean image what the backbone gives from a noisy one.

After CleanDIFT (arXiv 2412.03439): the copy sees the image without noise and is always fed one timestep, here the
selection's. Behind each tap an adapter, which knows the noise level, turns the copy's features into the noisy ones; it
takes up what only noise explains, and is discarded afterwards. What is minimised is the negative cosine of each token.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from aselect_edge.backbones.device import reduced
from aselect_edge.backbones.family import Backbone, expand
from aselect_edge.bundle.model import TapModel
from aselect_edge.data.spread import evenly
from aselect_edge.training.goal import Goal
from aselect_edge.training.identity import features_digest
from aselect_edge.training.loop import learn
from aselect_edge.training.recipe import CleanRecipe, Recipe
from aselect_edge.training.views import data_digest, to_pixels
from aselect_runtime.frames import resize
from aselect_runtime.progress import Progress
from aselect_runtime.records import Clean, Noise, Resize

LEVELS = 64
"""Noise levels of the schedule that are sampled."""
HELD_OUT = 32
"""Most images of val that the cosine is measured on, with fixed noise."""
STRATA = 3
"""A batch takes its levels from so many equal parts of the schedule in turn, as CleanDIFT does."""


@dataclass(frozen=True)
class Likeness:
    """How near a clean backbone comes on val."""

    cosine: float

    @property
    def metric(self) -> str:
        """See Measured."""
        return "cosine"

    @property
    def score(self) -> float:
        """Mean over tokens and taps; below 0 counts as 0."""
        return max(0.0, self.cosine)

    @property
    def loss(self) -> float:
        """See Measured."""
        return 1 - self.cosine


class Adapter(nn.Module):
    """Features (N, T, D) at a noise level -> those of the noisy image; the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(16, width // 4)
        self.norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.level = nn.Linear(2, 2 * hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """`level` (N, 2) is alpha and sigma."""
        scale, shift = self.level(level)[:, None].chunk(2, dim=2)
        return x + self.up(F.silu(self.down(self.norm(x)) * (1 + scale) + shift))


class CleanLearner:
    """The copy and its adapters; the backbone of `model` gives the noisy features and stays as it is."""

    def __init__(
        self,
        model: TapModel,
        goal: Goal,
        how: Resize,
        recipe: Recipe,
        levels: Sequence[Noise],
        device: torch.device,
    ) -> None:
        """`recipe.backbone_rate` is the copy's learning rate, `recipe.learning_rate` the adapters'."""
        self.model = model.to(device).eval()
        self.noisy = model.backbone.requires_grad_(False)
        student = copy.deepcopy(self.noisy).requires_grad_(True)
        adapters = nn.ModuleList(Adapter(student.width) for _ in model.taps)
        self.module: nn.Module = nn.ModuleDict({"backbone": student, "adapters": adapters}).to(device)
        self.groups: list[dict[str, Any]] = [
            {"params": list(part.parameters()), "lr": rate}
            for part, rate in ((student, recipe.backbone_rate), (adapters, recipe.learning_rate))
        ]
        self.goal, self.how, self.device, self.levels = goal, how, device, tuple(levels)
        self.views, self.seed = goal.views(model.imgsz, how), recipe.seed

    @torch.no_grad()
    def start(self) -> float | None:
        """See Learner: nothing is set, but the copy counts from its first state on, so that it cannot get worse."""
        return float(self._loss(self.module, *self._batch(np.random.default_rng((self.seed, 3)))))

    def losses(self, step: int, rng: np.random.Generator) -> tuple[Tensor, float]:  # noqa: ARG002
        """See Learner; the loss is 1 - cosine."""
        loss = self._loss(self.module, *self._batch(rng))
        return loss, loss.item()

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Likeness:
        """See Learner: the same images, levels and noise each time."""
        module.eval()
        count = len(self.goal.val)
        chosen = evenly(count, min(HELD_OUT, count))
        found = []
        for number, index in enumerate(chosen):
            frame = resize(self.goal.val.read(index)[0], self.model.imgsz, self.how)
            noise = self.levels[number * len(self.levels) // len(chosen)]
            rng = np.random.default_rng((self.seed, 4, number))
            found.append(1 - float(self._loss(module, to_pixels(frame[None]).to(self.device), [noise], rng)))
        return Likeness(sum(found) / len(found))

    def _batch(self, rng: np.random.Generator) -> tuple[Tensor, list[Noise], np.random.Generator]:
        pixels = self.views.batch(rng)[0].to(self.device)
        numbers = _stratified(rng, len(pixels), len(self.levels))
        return pixels, [self.levels[number] for number in numbers], rng

    def _loss(self, module: nn.Module, pixels: Tensor, noises: Sequence[Noise], rng: np.random.Generator) -> Tensor:
        """1 - cosine, the mean over tokens and taps; each image at its own noise level."""
        assert isinstance(module, nn.ModuleDict)
        level = torch.tensor([[noise.alpha, noise.sigma] for noise in noises], device=self.device)
        fed = torch.tensor([noise.model_timestep for noise in noises], device=self.device)
        with torch.no_grad():
            x0 = self.model.encoder.x0(pixels)
            eps = torch.from_numpy(rng.standard_normal(tuple(x0.shape), np.float32)).to(self.device)
            alpha, sigma = (part[:, None, None, None] for part in level.unbind(1))
            expected = self._tokens(self.noisy, alpha * x0 + sigma * eps, fed)
        one = torch.full((len(x0),), self.model.noise.model_timestep, device=self.device)
        with reduced(self.device):
            got = self._tokens(module["backbone"], x0, one)
            turned = [module["adapters"].get_submodule(str(n))(x, level) for n, x in enumerate(got)]
        cosines = [
            F.cosine_similarity(a.float(), b.float(), dim=2).mean() for a, b in zip(turned, expected, strict=True)
        ]
        return 1 - torch.stack(cosines).mean()

    def _tokens(self, backbone: nn.Module, x: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        """The features (N, T, D) of each tap, discarded channels zero, so that they do not decide the cosine."""
        assert isinstance(backbone, Backbone)
        seen = backbone.features(x, timestep, expand(self.model.condition, len(x), self.device), self.model.taps)
        return self.model.discard([seen[tap] for tap in self.model.taps])


def clean_backbone(
    model: TapModel,
    goal: Goal,
    how: Resize,
    recipe: CleanRecipe,
    levels: Sequence[Noise],
    workdir: Path,
    progress: Progress,
    device: torch.device,
) -> tuple[Backbone, Clean]:
    """A copy of the model's backbone that gives the features of `levels` from clean images, and its record.

    Labels are not read. Checkpoint and curve go to `workdir`, from which an interrupted run goes on, and a finished one
    is only read. The model stays as it is, on the CPU.
    """
    own = Recipe(
        samples=recipe.samples,
        batch=min(recipe.batch, recipe.samples),
        learning_rate=recipe.adapter_rate,
        backbone_rate=recipe.rate,
        weight_decay=0.0,
        seed=recipe.seed,
        synthetic=recipe.synthetic,
    )
    torch.manual_seed(own.seed)  # of the adapters
    identity = _identity(model, goal, how, own, levels)
    learner = CleanLearner(model, goal, how, own, levels, device)
    state = learn(learner, own, identity, workdir, progress)
    learner.module.load_state_dict(state.best_weights)
    assert isinstance(learner.module, nn.ModuleDict)
    backbone = learner.module["backbone"].cpu().eval().requires_grad_(False)
    model.cpu()
    assert isinstance(backbone, Backbone)
    record = Clean(
        noise=model.noise,
        levels=recipe.levels,
        samples=state.step * own.batch,
        before=state.curve[0][2],
        cosine=state.best,
    )
    return backbone, record


def without_noise(noise: Noise) -> Noise:
    """What a clean backbone is run at: the image alone, and the timestep that the copy was fed."""
    return Noise(alpha=1.0, sigma=0.0, model_timestep=noise.model_timestep)


def _stratified(rng: np.random.Generator, count: int, levels: int) -> NDArray[np.int64]:
    """Indices of `count` noise levels: one part of the schedule after the other, uniform within each."""
    parts = (np.arange(count) + rng.integers(STRATA)) % STRATA
    return np.minimum(((parts + rng.random(count)) / STRATA * levels).astype(np.int64), levels - 1)


def _identity(model: TapModel, goal: Goal, how: Resize, recipe: Recipe, levels: Sequence[Noise]) -> str:
    """What is learned, of what and how, as JSON; without the device, so that a run may go on on another."""
    content: Mapping[str, Any] = {
        "recipe": asdict(recipe),
        "features": features_digest(model),
        "levels": [noise.model_dump() for noise in levels],
        "resize": how.model_dump(),
        "train": data_digest(goal.train),
        "val": data_digest(goal.val),
    }
    return json.dumps(content)
