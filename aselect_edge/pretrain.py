"""Pretrain a small pixel-space DiT: `python -m aselect_edge.pretrain --data DIR --out FOLDER`.

The recipe: v prediction on a cosine schedule, mostly small windows of pictures with the position embedding of
where they lie in the full frame (64 tokens instead of 432, so an order of magnitude more samples per second),
some full frames, class-conditional where a picture has a class (10 % label dropout), AdamW, EMA. Only training
images are read: `camvid/train`, `cub40/train`, `tinyimagenet`, the clips, and synthetic streets.

It resumes from its checkpoint, runs on a GPU in bf16 when there is one, and writes a diffusers pipeline folder.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor

from aselect_edge.backbones import DiT, DiTConfig, save_backbone
from aselect_edge.backbones.dit import initialise
from aselect_edge.command import entry
from aselect_edge.corpus import Corpus
from aselect_edge.denoise import Denoising, window_positions
from aselect_edge.files import atomic_write
from aselect_edge.training.checkpoint import read_checkpoint, write_checkpoint

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
    seed: int = 0


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """BGR uint8 (N, H, W, 3) -> RGB float (N, 3, H, W) in [-1, 1]."""
    rgb = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2))
    return torch.from_numpy(rgb).float() / 127.5 - 1


def batches(corpus: Corpus, recipe: Recipe, model: DiT, start: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Endless (x0, label, positions); a label of -1 means that the picture has none."""
    step = start
    while True:
        rng = np.random.default_rng((recipe.seed, step))
        if step % recipe.frame_every == recipe.frame_every - 1:
            images, labels = corpus.batch(rng, recipe.frame_batch, FRAME)
            positions = None
        else:
            images, labels = corpus.batch(rng, recipe.window_batch, (recipe.window, recipe.window))
            positions = window_positions(model, rng, recipe.window, FRAME, recipe.window_batch)[0]
        dropped = rng.random(len(labels)) < recipe.label_dropout
        labels = np.where(dropped | (labels < 0), model.null_label, labels)
        yield to_tensor(images), torch.from_numpy(labels), positions
        step += 1


@torch.no_grad()
def update_ema(average: DiT, model: DiT, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model."""
    for a, b in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(b, 1 - decay)


def pretrain(corpus: Corpus, out: Path, recipe: Recipe, config: DiTConfig = CONFIG) -> Path:
    """Train to the recipe's budget, resuming from `out/checkpoint.pt`; returns the pipeline folder."""
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = DiT(config, tied=True)
    initialise(model)
    average = deepcopy(model).requires_grad_(False).to(device)
    model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    loss_of = Denoising(SCHEDULE, device)
    checkpoint = out / "checkpoint.pt"
    step, seen, curve = 0, 0, []
    if checkpoint.is_file():
        state = read_checkpoint(checkpoint)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, seen, curve = state["step"], state["seen"], state["curve"]
    stream = batches(corpus, recipe, model, step)
    started, loss_sum, loss_count = time.monotonic(), 0.0, 0
    columns = [*Progress.get_default_columns()[:-1], TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("pretrain", total=recipe.samples, completed=seen)
        while seen < recipe.samples:
            x0, label, positions = next(stream)
            rate = min(1.0, (step + 1) / recipe.warmup) * (
                0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * seen / recipe.samples))
            )
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * rate
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                place = None if positions is None else positions.to(device)
                loss = loss_of(model, x0.to(device), label.to(device), place)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            update_ema(average, model, min(recipe.ema, (step + 1) / (step + 10)))
            step, seen = step + 1, seen + len(x0)
            loss_sum, loss_count = loss_sum + loss.item(), loss_count + 1
            progress.update(task, completed=seen, description=f"pretrain, loss {loss.item():.3f}")
            if step % 200 == 0 or seen >= recipe.samples:
                curve.append([seen, loss_sum / loss_count, time.monotonic() - started])
                loss_sum, loss_count = 0.0, 0
                state = {"model": model.state_dict(), "average": average.state_dict()}
                state |= {"optimiser": optimiser.state_dict(), "step": step, "seen": seen, "curve": curve}
                write_checkpoint(checkpoint, state)
                atomic_write(out / "curve.json", json.dumps({"columns": ["samples", "loss", "seconds"], "rows": curve}))
                save_backbone(average, SCHEDULE, out)
    return out


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds camvid, cub40, tinyimagenet, video.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint and backbone.")] = Path("runs/backbone"),
    samples: Annotated[int, typer.Option(help="Pictures to train on, windows and frames alike.")] = 200_000,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 is all.")] = 0,
    limit: Annotated[int, typer.Option(help="Pictures of tinyimagenet to hold in memory.")] = 50_000,
) -> None:
    """Pretrain the backbone."""
    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    pretrain(Corpus.load(data, limit), out, Recipe(samples=samples))


if __name__ == "__main__":
    entry(main)()
