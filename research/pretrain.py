"""Pretrain a small pixel-space DiT: `python -m research.pretrain --data DIR --out FOLDER [--teacher NAME]`.

A run resumes from its checkpoint and writes a diffusers pipeline folder; see research/pretraining.py. Several processes
share each step: `torchrun --nproc-per-node N -m research.pretrain …`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, cast

import cv2
import torch
import typer

from aselect_edge.backbones import DiT, load_backbone
from aselect_edge.backbones.device import find_device
from aselect_edge.team import assemble
from aselect_runtime.commands.entry import entry
from aselect_runtime.errors import InputError
from research.corpus import load_corpus
from research.curriculum import By, Curriculum
from research.pretrain_recipe import CONFIG, PretrainRecipe
from research.pretraining import pretrain
from research.teacher import Teacher, open_teacher


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds camvid, cub40, tinyimagenet, video.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint and backbone.")] = Path("runs/backbone"),
    samples: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 200_000,
    seconds: Annotated[float | None, typer.Option(help="Stop after this time, if that comes first.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="efficientnet-lite0, timm/NAME or torchvision/NAME; none if left out.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Square crops per step; a step of full frames has half as many.")
    ] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all if left out.")] = None,
    limit: Annotated[int, typer.Option(help="Images of tinyimagenet to hold in memory.")] = 50_000,
    streets: Annotated[int, typer.Option(help="Synthetic street frames to draw.")] = 1200,
    curriculum: Annotated[int | None, typer.Option(min=1, max=1000, help="Number of chosen timesteps.")] = None,
    curriculum_by: Annotated[str, typer.Option(help="Their rule: hfr, learned or even (the control).")] = "hfr",
    start: Annotated[str | None, typer.Option(help="A backbone of the same shape to start from.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Pretrain the backbone."""
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    where = find_device(device)
    by = Curriculum(curriculum, cast(By, curriculum_by)) if curriculum else None
    asked = open_teacher(teacher) if teacher else None
    if isinstance(asked, torch.nn.Module):
        asked = cast(Teacher, asked.to(where))
    recipe = PretrainRecipe(
        samples=samples,
        seconds=seconds or math.inf,
        batch=batch,
        frame_batch=max(1, batch // 2),
        compiled=where.type == "cuda",
        curriculum=by,
        seed=seed,
    )
    with assemble() as team:
        corpus = load_corpus(data, where, streets, limit)
        pretrain(corpus, out, recipe, asked, where, start=_start(start) if start else None, team=team)


def _start(source: str) -> DiT:
    model = load_backbone(source).model
    if not isinstance(model, DiT) or model.config != CONFIG:
        raise InputError(
            f"{source}: got another architecture, expected this recipe's DiT; leave it out", parameter="start"
        )
    return model


if __name__ == "__main__":
    entry(main)()
