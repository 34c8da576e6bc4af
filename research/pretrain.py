"""Pretrain a small pixel-space DiT: `python -m research.pretrain --data DIR --out FOLDER`.

The recipe: v prediction on a cosine schedule, mostly small windows of pictures with the position embedding of
where they lie in the full frame (64 tokens instead of 432, so an order of magnitude more samples per second),
some full frames, class-conditional where a picture has a class (10 % label dropout), AdamW, EMA. Only training
images are read: `camvid/train`, `cub40/train`, `tinyimagenet`, the clips, and synthetic streets.

With `--taught`, the labels of Tiny ImageNet and of the synthetic streets teach beside the denoising loss (see
`teaching`). With `--curriculum N`, it trains on N chosen timesteps instead of all (see `curriculum`). It resumes
from its checkpoint, runs on a GPU in bf16 when there is one, and writes a diffusers pipeline folder.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor

from aselect_edge.backbones import DiT, DiTConfig, load_backbone, save_backbone
from aselect_edge.backbones.device import reduced
from aselect_edge.backbones.dit import initialise
from aselect_edge.training.checkpoint import read_checkpoint, write_checkpoint
from aselect_edge.training.denoise import Denoising, prediction_error, window_positions
from aselect_runtime import scenes
from aselect_runtime.commands.entry import entry
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import atomic_write
from research.corpus import NO_CLASS, Corpus
from research.curriculum import By, Curriculum, choose
from research.teaching import Lesson, Teacher, watching

CONFIG = DiTConfig(
    num_attention_heads=3,
    attention_head_dim=64,
    in_channels=3,
    num_layers=8,
    sample_size=192,
    patch_size=8,
    num_embeds_ada_norm=200,
)
FRAME = (144, 192)
SAVE_EVERY = 200
"""Steps from one checkpoint to the next."""
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}


@dataclass(frozen=True)
class Recipe:
    """Budget and optimiser of a run; `samples` counts pictures, windows and full frames alike."""

    samples: int = 200_000
    window: int = 64
    window_batch: int = 64
    frame_batch: int = 8
    frame_every: int = 8
    learning_rate: float = 6e-4
    warmup: int = 200
    label_dropout: float = 0.1
    ema: float = 0.999
    lesson: Lesson | None = None
    """What labels teach; None leaves them out."""
    curriculum: Curriculum | None = None
    """Which timesteps are trained on; None is all of them, uniformly."""
    seed: int = 0


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """BGR uint8 (N, H, W, 3) -> RGB float (N, 3, H, W) in [-1, 1]."""
    rgb = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2))
    return torch.from_numpy(rgb).float() / 127.5 - 1


class Batch(NamedTuple):
    """Pictures with what is known of them, and what the model is told."""

    x0: Tensor
    """(N, 3, H, W) in [-1, 1]."""
    label: Tensor
    """Class (N,), or NO_CLASS."""
    told: Tensor
    """The class that conditions the model (N,): the label, or the null class where there is none or it is dropped."""
    maps: Tensor
    """Class maps (N, H, W), UNLABELLED where nothing is known."""
    positions: Tensor | None
    """Position embeddings of windows; None for full frames."""

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch._make(None if part is None else part.to(device) for part in self)


def batches(corpus: Corpus, recipe: Recipe, model: DiT, start: int) -> Iterator[Batch]:
    """Endless batches from step `start` on."""
    for step in itertools.count(start):
        rng = np.random.default_rng((recipe.seed, step))
        if step % recipe.frame_every == recipe.frame_every - 1:
            crops = corpus.batch(rng, recipe.frame_batch, FRAME)
            positions = None
        else:
            crops = corpus.batch(rng, recipe.window_batch, (recipe.window, recipe.window))
            positions = window_positions(model, rng, recipe.window, FRAME, recipe.window_batch)[0]
        dropped = rng.random(len(crops.labels)) < recipe.label_dropout
        told = np.where(dropped | (crops.labels == NO_CLASS), model.null_label, crops.labels)
        label, given, maps = (torch.from_numpy(each) for each in (crops.labels, told, crops.maps))
        yield Batch(to_tensor(crops.images), label, given, maps, positions)


@torch.no_grad()
def update_ema(average: DiT, model: DiT, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model."""
    for a, b in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(b, 1 - decay)


class Run:
    """The state of a run: the model, its average, the optimiser, where it stands, and its checkpoint."""

    def __init__(self, out: Path, recipe: Recipe, config: DiTConfig, start: DiT | None) -> None:
        torch.manual_seed(recipe.seed)
        self.out, self.recipe = out, recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = DiT(config, tied=True)
        initialise(self.model)
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        self.average = deepcopy(self.model).requires_grad_(False).to(self.device)
        self.model.to(self.device)
        self.denoising = Denoising(SCHEDULE, self.device)
        self.teacher = Teacher(self.model, recipe.lesson).to(self.device) if recipe.lesson else None
        learned = [*self.model.parameters(), *(self.teacher.parameters() if self.teacher else ())]
        self.optimiser = torch.optim.AdamW(learned, lr=recipe.learning_rate, weight_decay=0.01)
        self.step, self.seen, self.curve = 0, 0, list[list[float]]()
        self.chosen: list[tuple[int, list[int]]] = []
        """Samples seen, and the timesteps that the curriculum went on with."""
        self.checkpoint = out / "checkpoint.pt"
        if self.checkpoint.is_file():
            self._resume(read_checkpoint(self.checkpoint))
        earlier = self.curve[-1][2] if self.curve else 0.0
        self.started, self.losses = time.monotonic() - earlier, list[float]()

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "average": self.average, "optimiser": self.optimiser}
        return parts | ({"teacher": self.teacher} if self.teacher else {})

    def _curriculum(self) -> dict[str, Any] | None:
        return asdict(self.recipe.curriculum) if self.recipe.curriculum else None

    def _resume(self, state: dict[str, Any]) -> None:
        parts = self._parts()
        if ("teacher" in state) != ("teacher" in parts):
            raise InputError(
                f"{self.checkpoint}: got a run {'with' if 'teacher' in state else 'without'} labels that teach, "
                "expected this run's recipe; choose another place",
                parameter=("taught", "out"),
            )
        if state.get("curriculum") != self._curriculum():
            raise InputError(
                f"{self.checkpoint}: got a run with the curriculum {state.get('curriculum')}, expected this run's, "
                f"{self._curriculum()}; give the same curriculum, or choose another place",
                parameter=("curriculum", "curriculum_by", "out"),
            )
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.seen, self.curve = state["step"], state["seen"], state["curve"]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise IntegrityError(
                f"{self.checkpoint}: incomplete ({error}), expected a checkpoint; remove it"
            ) from error
        self.chosen = state.get("chosen", [])

    def renew(self, corpus: Corpus) -> None:
        """Choose the curriculum's timesteps where that is due, by the averaged model on pictures of the corpus."""
        curriculum = self.recipe.curriculum
        if curriculum and curriculum.due(self.seen, self.chosen[-1][0] if self.chosen else None):
            rng = np.random.default_rng((self.recipe.seed, self.step, curriculum.pictures))
            pictures = corpus.batch(rng, curriculum.pictures, FRAME).images
            self.chosen.append((self.seen, choose(curriculum, self.average, SCHEDULE, pictures, self.recipe.seed)))

    def learn(self, batch: Batch) -> float:
        """One step; its loss."""
        recipe, batch = self.recipe, batch.to(self.device)
        # Noise of its own for every step, so that a resumed run draws what an uninterrupted one would.
        torch.manual_seed(int(np.random.SeedSequence((recipe.seed, self.step)).generate_state(1)[0]))
        timesteps = torch.tensor(self.chosen[-1][1], device=self.device) if self.chosen else None
        cosine = 0.5 * (1 + math.cos(math.pi * self.seen / recipe.samples))
        rate = min(1.0, (self.step + 1) / recipe.warmup) * (0.05 + 0.95 * cosine)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rate
        with reduced(self.device):
            noised = self.denoising.noised(batch.x0, timesteps)
            with watching(self.model, recipe.lesson.blocks if recipe.lesson else ()) as seen:
                loss = prediction_error(self.model, noised, batch.told, batch.positions)
            if self.teacher:
                loss = loss + self.teacher(seen, batch.label, batch.told, batch.maps, noised.signal)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        update_ema(self.average, self.model, min(recipe.ema, (self.step + 1) / (self.step + 10)))
        self.step, self.seen = self.step + 1, self.seen + len(batch.x0)
        self.losses.append(loss.item())
        return self.losses[-1]

    def save(self) -> None:
        """Write the averaged backbone and the curve; last the checkpoint, so that it never runs ahead of them."""
        self.curve.append([self.seen, sum(self.losses) / len(self.losses), time.monotonic() - self.started])
        self.losses.clear()
        save_backbone(self.average, SCHEDULE, self.out)
        curve = {"columns": ["samples", "loss", "seconds"], "rows": self.curve}
        choices = {"curriculum": self._curriculum(), "chosen": self.chosen} if self.recipe.curriculum else {}
        atomic_write(self.out / "curve.json", json.dumps(curve | choices))
        state = {name: part.state_dict() for name, part in self._parts().items()}
        progress = {"step": self.step, "seen": self.seen, "curve": self.curve}
        write_checkpoint(self.checkpoint, state | progress | choices)


def pretrain(corpus: Corpus, out: Path, recipe: Recipe, config: DiTConfig = CONFIG, start: DiT | None = None) -> Path:
    """Train to the recipe's budget, resuming from `out/checkpoint.pt`; returns the pipeline folder.

    A fresh run begins with the weights of `start`, or with random ones.
    """
    run = Run(out, recipe, config, start)
    columns = [*Progress.get_default_columns()[:-1], TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("pretrain", total=recipe.samples, completed=run.seen)
        stream = batches(corpus, recipe, run.model, run.step)
        while run.seen < recipe.samples:
            run.renew(corpus)
            loss = run.learn(next(stream))
            progress.update(task, completed=run.seen, description=f"pretrain, loss {loss:.3f}")
            if run.step % SAVE_EVERY == 0 or run.seen >= recipe.samples:
                run.save()
    return out


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds camvid, cub40, tinyimagenet, video.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint and backbone.")] = Path("runs/backbone"),
    samples: Annotated[int, typer.Option(help="Pictures to train on, windows and frames alike.")] = 200_000,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 is all.")] = 0,
    limit: Annotated[int, typer.Option(help="Pictures of tinyimagenet to hold in memory.")] = 50_000,
    taught: Annotated[bool, typer.Option("--taught", help="Let labels teach beside the denoising loss.")] = False,
    curriculum: Annotated[
        int, typer.Option(min=0, max=1000, help="Train on so many chosen timesteps; 0 is all of them.")
    ] = 0,
    curriculum_by: Annotated[str, typer.Option(help="What chooses them: hfr, learned or even (the control).")] = "hfr",
    start: Annotated[str, typer.Option(help="A backbone of the same shape to begin with, not random weights.")] = "",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Pretrain the backbone."""
    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    recipe = Recipe(samples=samples, seed=seed)
    if taught:
        lesson = Lesson(classes=CONFIG.num_embeds_ada_norm, map_classes=len(scenes.CLASSES))
        recipe = replace(recipe, lesson=lesson, label_dropout=0.5)
    if curriculum:
        recipe = replace(recipe, curriculum=Curriculum(curriculum, cast(By, curriculum_by)))
    pretrain(Corpus.load(data, limit), out, recipe, start=_backbone(start) if start else None)


def _backbone(source: str) -> DiT:
    model = load_backbone(source).model
    if not isinstance(model, DiT) or model.config != CONFIG:
        raise InputError(
            f"{source}: got another architecture, expected this recipe's DiT; leave it out", parameter="start"
        )
    return model


if __name__ == "__main__":
    entry(main)()
