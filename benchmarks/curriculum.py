"""The value of a timestep curriculum: the same small budget from the same start, with all timesteps or N of them.

    python -m benchmarks.curriculum [--samples 3000] [--seeds 3] [--out benchmarks/results/curriculum.json]

A seed determines images, order and noise, the same for every rule; only the timesteps differ. A quarter of the budget
sees all timesteps, then N are chosen at every quarter. Figures: the denoising loss over all timesteps on images of
camvid/val and cub40/val, and the best ridge probe of CamVid's classes (scored on val) at the smallest noise, both of
the averaged model. Intervals are Student's, 95 %, over seeds, of the rule itself and of its difference to uniform in
the same seed. Needs $ASELECT_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from aselect_edge.backbones import DiT, LoadedBackbone, load_backbone
from aselect_edge.backbones.device import CPU
from aselect_edge.backbones.noise import candidate_timesteps
from aselect_edge.selection import Request, Settings, select_tap
from aselect_edge.training.denoise import Denoising, prediction_error
from aselect_runtime.frames import read_image, resize
from aselect_runtime.media import list_images
from aselect_runtime.records import Resize
from benchmarks.curriculum_table import table
from benchmarks.harness import save, stamp
from benchmarks.selection_table import interval
from research.corpus import load_corpus
from research.curriculum import RULES, By, Curriculum
from research.pretrain_recipe import SCHEDULE, PretrainRecipe
from research.pretraining import pretrain

FRAME = PretrainRecipe().frame
UNIFORM = "uniform"
HELD_OUT = ("camvid/val/images", "cub40/val")
SMALLEST = 0
"""The timestep of the smallest noise."""
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3000, help="per run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timesteps", type=int, default=80, help="number that a curriculum keeps")
    parser.add_argument("--start", default="shipped", help="backbone that all runs start from")
    parser.add_argument("--limit", type=int, default=10_000, help="images of tinyimagenet to hold in memory")
    parser.add_argument("--held-out", type=int, default=16, help="images of each set for the loss")
    parser.add_argument("--labelled", type=int, default=40, help="training images of the probe, and as many of val")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/curriculum.json"))
    arguments = parser.parse_args()
    if "ASELECT_DATA" not in os.environ:
        sys.exit("ASELECT_DATA is not set, expected the folder that holds camvid and cub40; set it")
    torch.set_num_threads(arguments.threads)
    result = measure(Path(os.environ["ASELECT_DATA"]), arguments)
    print(table(result))
    save(arguments.out, result)


def measure(data: Path, job: argparse.Namespace) -> dict[str, Any]:
    """Every rule's figures over the seeds, and its differences to uniform, pair by pair."""
    corpus, images = load_corpus(data, CPU, tiny=job.limit), held_out(data, job.held_out)
    start = load_backbone(job.start)
    runs: dict[str, list[Figures]] = {rule: [] for rule in (UNIFORM, *RULES)}
    chosen: dict[str, list[list[int]]] = {}
    for seed in range(job.seeds):
        for rule, found in runs.items():
            recipe = recipe_of(rule, job.samples, job.timesteps, seed)
            with tempfile.TemporaryDirectory() as folder:
                out = pretrain(corpus, Path(folder), recipe, config=dit(start).config, start=dit(start))
                curve = json.loads((out / "curve.json").read_text(encoding="utf-8"))
                found.append(figures(load_backbone(str(out)), images, data, job.labelled))
            found[-1]["seconds"] = curve["rows"][-1][1]
            if rule != UNIFORM:
                chosen.setdefault(rule, []).append(curve["chosen"][-1][1])
            print(f"seed {seed}, {rule}: {found[-1]}", file=sys.stderr)
    return {
        **stamp(f"{torch.get_num_threads()} thread(s)"),
        "job": {key: value for key, value in vars(job).items() if key not in ("out", "threads")},
        "start": figures(start, images, data, job.labelled),
        "rows": {rule: summary(found, runs[UNIFORM]) for rule, found in runs.items()},
        "chosen": chosen,
    }


def recipe_of(rule: str, samples: int, timesteps: int, seed: int) -> PretrainRecipe:
    """A short run: small batches for enough steps, and a learning rate that keeps the pretrained weights."""
    quarter = max(1, samples // 4)
    curriculum = None if rule == UNIFORM else Curriculum(timesteps, cast(By, rule), warmup=quarter, every=quarter)
    return PretrainRecipe(samples, batch=16, frame_batch=4, learning_rate=2e-4, curriculum=curriculum, seed=seed)


def dit(backbone: LoadedBackbone) -> DiT:
    """The model of a backbone that can be pretrained further."""
    if not isinstance(backbone.model, DiT):
        sys.exit(f"{backbone.source}: got {backbone.model.family}, expected a DiT; change --start")
    return backbone.model


def held_out(data: Path, count: int) -> Tensor:
    """`count` images of each set that no run uses, (N, 3, H, W) in [-1, 1]: whole, through the deployed resize."""
    found = []
    for name in HELD_OUT:
        paths = list_images(data / name)
        for index in np.linspace(0, len(paths) - 1, count).round().astype(int):
            found.append(resize(read_image(paths[index]), FRAME, Resize()))
    rgb = np.ascontiguousarray(np.stack(found)[..., ::-1].transpose(0, 3, 1, 2))
    return torch.from_numpy(rgb).float() / 127.5 - 1


def figures(backbone: LoadedBackbone, images: Tensor, data: Path, labelled: int) -> Figures:
    """The denoising loss over all timesteps and at the smaller half of them, and the probe's mIoU."""
    losses = denoising_losses(dit(backbone), images)
    request = Request("probe", images=labelled, imgsz=FRAME, timesteps=[SMALLEST], settings=Settings(ridge=1e-3))
    probe = max(score.value for score in select_tap(backbone, data / "camvid", request).scores)
    return {
        "loss": float(np.mean(losses)),
        "loss, less noisy half": float(np.mean(losses[: len(losses) // 2])),
        "probe mIoU": probe,
    }


@torch.no_grad()
def denoising_losses(model: DiT, images: Tensor, levels: int = 20, batch: int = 8) -> list[float]:
    """The mean loss of the images at `levels` timesteps spread over the schedule, always with the same noise."""
    denoising, losses = Denoising(SCHEDULE, images.device), []
    for timestep in candidate_timesteps(count=levels):
        torch.manual_seed(timestep)
        parts = []
        for x0 in images.split(batch):
            noised = denoising.noised(x0, torch.tensor([timestep]))
            nothing = torch.full((len(x0),), model.null_label)
            parts.append(len(x0) * prediction_error(model, noised, nothing).item())
        losses.append(sum(parts) / len(images))
    return losses


def summary(own: list[Figures], uniform: list[Figures]) -> dict[str, dict[str, dict[str, float]]]:
    """The interval of each figure over the seeds, and that of the differences to uniform."""
    return {
        name: {
            "own": interval([run[name] for run in own]),
            "beyond uniform": interval([run[name] - other[name] for run, other in zip(own, uniform, strict=True)]),
        }
        for name in own[0]
    }


if __name__ == "__main__":
    main()
