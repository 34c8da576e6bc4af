"""Pretraining of a small pixel-space DiT by the losses of `pretrain_loss`.

The corpus is on the device. A run resumes from its checkpoint and writes a diffusers pipeline folder.
"""

from __future__ import annotations

import json
import logging
import math
import time
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from aselect_edge.backbones import DiT, DiTConfig, save_backbone
from aselect_edge.backbones.device import CPU
from aselect_edge.backbones.dit import initialise
from aselect_edge.team import ALONE, Team
from aselect_edge.training.checkpoint import read_checkpoint, write_checkpoint
from aselect_edge.training.fit import fit
from aselect_edge.training.sharing import check_shared
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import atomic_write
from research.corpus import Corpus, mixed
from research.curriculum import choose
from research.pretrain_loss import Objective
from research.pretrain_recipe import CONFIG, SCHEDULE, PretrainRecipe
from research.teacher import Teacher

CHECKPOINT, CURVE = "checkpoint.pt", "curve.json"

log = logging.getLogger(__name__)


class Run:
    """The state of a run: model, average, objective, optimiser and progress."""

    def __init__(
        self,
        out: Path,
        recipe: PretrainRecipe,
        corpus: Corpus,
        teacher: Teacher | None = None,
        device: torch.device = CPU,
        config: DiTConfig = CONFIG,
        start: DiT | None = None,
        team: Team = ALONE,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.team = team
        self.out, self.recipe, self.corpus, self.device = out, recipe, corpus, device
        self.model = DiT(config, tied=True)
        initialise(self.model)
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        self.average = deepcopy(self.model).requires_grad_(False).to(device)
        self.model.to(device)
        self.objective = Objective(self.model, recipe, teacher, device, team)
        self.optimiser = torch.optim.AdamW(
            self.objective.learnt(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.99),
            fused=device.type == "cuda",
        )
        self.step, self.seen, self.spent = 0, 0, 0.0
        self.curve: list[list[float]] = []
        """Images seen, seconds, denoising loss, alignment loss."""
        self.losses: list[Tensor] = []
        self.chosen: list[tuple[int, list[int]]] = []
        """Images seen, and the timesteps that the curriculum chose then."""
        if (out / CHECKPOINT).is_file():
            self._resume(read_checkpoint(out / CHECKPOINT))
        else:
            self.objective.measure(corpus)
        if recipe.compiled:
            for block in self.model.blocks:
                block.compile(dynamic=False)

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"model": self.model, "average": self.average, "optimiser": self.optimiser}
        return parts | self.objective.parts()

    def _kind(self) -> dict[str, Any]:
        """The properties that a checkpoint must share with the run that resumes it."""
        return {
            "teacher": self.objective.teacher is not None,
            "curriculum": asdict(self.recipe.curriculum) if self.recipe.curriculum else None,
        }

    def _resume(self, state: dict[str, Any]) -> None:
        path = self.out / CHECKPOINT
        if state.get("kind") != self._kind():
            raise InputError(
                f"{path}: got a run of {state.get('kind')}, expected this run's {self._kind()}; give the same teacher "
                "and curriculum, or choose another folder",
                parameter=("teacher", "curriculum", "curriculum_by", "out"),
            )
        try:
            for name, part in self._parts().items():
                part.load_state_dict(state["parts"][name])
            self.step, self.seen, self.spent = state["step"], state["seen"], state["spent"]
            self.curve, self.chosen = state["curve"], [(seen, list(steps)) for seen, steps in state["chosen"]]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise IntegrityError(f"{path}: incomplete ({error}), expected a checkpoint; remove it") from error

    def _renew(self) -> None:
        """Choose the curriculum's timesteps if that is due, by the averaged model on images of the corpus."""
        curriculum = self.recipe.curriculum
        if curriculum and curriculum.due(self.seen, self.chosen[-1][0] if self.chosen else None):
            generator = torch.Generator(self.device).manual_seed(self.recipe.seed + self.step)
            pixels = self.corpus.batch(generator, curriculum.images, self.recipe.frame, True).pixels
            frames = pixels.flip(1).permute(0, 2, 3, 1).round().byte().cpu().numpy()
            average = deepcopy(self.average).cpu()
            self.chosen.append((self.seen, choose(curriculum, average, SCHEDULE, frames, self.recipe.seed)))

    @property
    def share(self) -> float:
        """The share of the budget spent, 0 to 1."""
        return max(self.seen / self.recipe.samples, self.spent / self.recipe.seconds)

    def loss(self) -> Tensor:
        """Draw a batch and return its loss; the draws follow from the seed and the step."""
        recipe, seed = self.recipe, self.recipe.seed * 1_000_003 + self.step
        generator = torch.Generator(self.device).manual_seed(seed)
        torch.manual_seed(seed)
        self._renew()
        frames = self.step % recipe.frame_every == recipe.frame_every - 1
        size, count = (recipe.frame, recipe.frame_batch) if frames else (recipe.crop, recipe.batch)
        crops = self.corpus.batch(generator, count, size, frames)
        pixels = crops.pixels if frames else mixed(generator, crops.pixels, recipe.mixed)
        parts = self.objective.losses(pixels, crops.labels, size, self.chosen[-1][1] if self.chosen else None)
        self.seen += count
        self.losses.append(self.team.sum(parts.detach()) / self.team.size)
        return parts.sum()

    def rate(self, _step: int, spent: float) -> float:
        """Factor on the learning rate: linear warm-up, then a cosine to 2 %."""
        decayed = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))
        return min(1.0, (spent + 1e-3) / self.recipe.warmup) * decayed

    @torch.no_grad()
    def stepped(self) -> None:
        """Update the average with the weights after a step."""
        decay = min(self.recipe.ema, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1

    def save(self) -> None:
        """Write the averaged backbone and the curve; the checkpoint last, so that it is never ahead of them."""
        if self.losses:
            means = torch.stack(self.losses).mean(0).tolist()
            self.curve.append([self.seen, round(self.spent, 1), *means])
            self.losses.clear()
        save_backbone(self.average, SCHEDULE, self.out)
        rows = {"columns": ["images", "seconds", "denoising", "alignment"], "rows": self.curve}
        atomic_write(self.out / CURVE, json.dumps(rows | {"chosen": self.chosen, "recipe": self.recipe.to_json()}))
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        state = {"kind": self._kind(), "parts": parts, "step": self.step, "seen": self.seen, "spent": self.spent}
        write_checkpoint(self.out / CHECKPOINT, {**state, "curve": self.curve, "chosen": self.chosen})


def pretrain(
    corpus: Corpus,
    out: Path,
    recipe: PretrainRecipe,
    teacher: Teacher | None = None,
    device: torch.device = CPU,
    config: DiTConfig = CONFIG,
    start: DiT | None = None,
    team: Team = ALONE,
) -> Path:
    """Train to the recipe's budget, resuming from `out/checkpoint.pt`; returns the pipeline folder.

    A new run starts with the weights of `start`, or with random ones. The first step is always made, so that even a
    budget of zero leaves a checkpoint to resume from. The processes of a `team` call this together with the same
    corpus and share each batch; the first one writes `out`, which all must see.
    """
    if team.size > recipe.frame_batch:
        raise InputError(
            f"got {team.size} processes for steps of {recipe.frame_batch} frames, expected at most one for each frame; "
            "start fewer processes or use a larger batch",
            parameter="batch",
        )
    run = Run(out, recipe, corpus, teacher, device, config, start, team)
    check_shared(run.step, team, out)
    team.equalise(run.model)
    before, saved = run.spent, time.monotonic()
    with Progress(console=Console(stderr=True), disable=not team.leads) as progress:
        task = progress.add_task("pretrain", total=1.0)

        def share(_step: int, elapsed: float) -> float:
            if device.type == "cuda" and run.step % 20 == 0:
                torch.cuda.synchronize(device)  # steps are queued faster than they are computed
            run.spent = before + elapsed
            return run.share

        def after(_step: int, spent: float) -> None:
            nonlocal saved
            run.stepped()
            if team.leads and (time.monotonic() - saved > recipe.save_every or spent >= 1):
                run.save()
                saved = time.monotonic()
                log.info("pretrain: %d images, %.0f s, losses %s", *run.curve[-1][:2], run.curve[-1][2:])
            progress.update(task, completed=min(spent, 1.0))

        fit(
            run.optimiser,
            lambda _step: run.loss(),
            share,
            rate=run.rate,
            done=run.step,
            clip=1.0,
            after=after,
            team=team,
        )
    return out
