"""aselect-train: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aselect_edge.commands.backbone import (
    WHAT,
    Condition,
    DeviceName,
    Family,
    Given,
    Heads,
    Json,
    Revision,
    Size,
    Vae,
    Verbose,
)
from aselect_runtime.commands.entry import entry
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice, parse_size

if TYPE_CHECKING:
    from aselect_edge.training import Recipe
    from aselect_runtime.records import HeadSpec


def _train(
    backbone: Annotated[str, typer.Option(help=WHAT)],
    selection: Annotated[Path, typer.Option(help="What aselect-select wrote.")],
    data: Annotated[Path, typer.Option(help="A labelled folder, in one of the layouts of docs/data.md.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write; <out>.training is kept beside it.")],
    task: Annotated[str, typer.Option(help="seg or cls.")] = "seg",
    taps: Annotated[str, typer.Option(help="Replaces the selection's tap, for example 0.hidden,3.query.")] = "",
    imgsz: Size = "",
    head: Annotated[
        str, typer.Option(help="seg: conv, edge or linear; cls: attention or linear. The first is meant.")
    ] = "",
    loss: Annotated[str, typer.Option(help="seg: dice or lovasz, beside the cross-entropy.")] = "dice",
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the backbone too.")] = False,
    unfreeze: Annotated[str, typer.Option(help="With --finetune: all, last:N blocks or lora:R (low rank).")] = "all",
    random_backbone: Annotated[bool, typer.Option("--random-backbone", help="Baseline: forget the weights.")] = False,
    noise_draws: Annotated[int, typer.Option(min=1, max=64, help="Mean over so many draws, a pass each.")] = 1,
    family: Family = "",
    vae: Vae = "",
    heads: Heads = 0,
    condition: Condition = "",
    label: Annotated[int, typer.Option(min=-1, help="Class to condition on; -1 is the selection's.")] = -1,
    revision: Revision = "",
    samples: Annotated[int, typer.Option(min=0, help="Views of frames to train on; 0 is the task's own.")] = 0,
    batch: Annotated[int, typer.Option(min=0, help="Frames per step; 0 is the task's own, at most --samples.")] = 0,
    lr: Annotated[float, typer.Option(min=0, max=1, help="Peak learning rate of the head; 0 is the task's own.")] = 0.0,
    backbone_lr: Annotated[
        float,
        typer.Option(min=0, max=1, help="With --finetune: of the backbone; 0 is 5e-4, meant for the shipped one."),
    ] = 0.0,
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after so many validations without a better figure; 0 never.")
    ] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Where features of the frozen backbone are kept; runs may share it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, views and noise; the same gives the same bundle.")] = 0,
    device: DeviceName = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 is all.")] = 0,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Train a head on the selected features; interrupted runs go on where they stood."""
    import torch

    from aselect_edge.backbones.device import find_device
    from aselect_edge.training import TrainRequest, Unfreeze, train_bundle
    from aselect_runtime.progress import terminal_progress
    from aselect_runtime.records import Selection, Tap

    choice(task, ("seg", "cls"), "--task")
    if unfreeze != "all" and not finetune:
        raise InputError(f"got --unfreeze {unfreeze} without --finetune, expected both; add --finetune")
    if backbone_lr and not finetune:
        raise InputError(f"got --backbone-lr {backbone_lr:g} without --finetune, expected both; add --finetune")
    if threads:
        torch.set_num_threads(threads)
    chosen = Selection.load(selection)
    request = TrainRequest(
        task=task,  # type: ignore[arg-type]
        source=backbone,
        selection=chosen,
        data=data,
        out=out,
        taps=tuple(Tap.parse(tap) for tap in taps.split(",") if tap),
        imgsz=parse_size(imgsz) if imgsz else None,
        head=_head(task, head),
        recipe=_recipe(task, loss, samples, batch, lr, backbone_lr, patience, seed),
        unfreeze=Unfreeze.parse(unfreeze) if finetune else None,
        random_backbone=random_backbone,
        noise_draws=noise_draws,
        cache=cache,
        device=find_device(device),
    )
    with terminal_progress() as progress:
        given = Given(family, vae, heads, condition, revision)
        loaded = given.load(backbone, chosen.label if label < 0 else label, request.depth)
        outcome = train_bundle(replace(request, source=loaded), progress)
    figures = outcome.figures
    if as_json:
        shares = {figures.metric: figures.score, **figures.others}
        print(json.dumps({"out": str(out), **{f"val_{name}": share for name, share in shares.items()}}))
    else:
        print(f"val {figures.metric} {figures.score:.3f}\n{out}\npictures: {request.workdir}")


def _head(task: str, kind: str) -> HeadSpec | None:
    """The head that was asked for; None for the task's own."""
    from aselect_runtime.records import HEAD_KINDS, HeadSpec

    if not kind:
        return None
    choice(kind, HEAD_KINDS[task], "--head")  # type: ignore[index]
    return HeadSpec(kind=kind, channels=128)  # type: ignore[arg-type]


def _recipe(
    task: str, loss: str, samples: int, batch: int, lr: float, backbone_lr: float, patience: int, seed: int
) -> Recipe:
    """The task's recipe with what was asked for in place of its own."""
    from aselect_edge.training import RECIPES

    own = RECIPES[task]  # type: ignore[index]
    return replace(
        own,
        overlap=choice(loss, ("dice", "lovasz"), "--loss"),  # type: ignore[arg-type]
        samples=samples or own.samples,
        batch=batch or min(own.batch, samples or own.batch),
        learning_rate=lr or own.learning_rate,
        backbone_rate=backbone_lr or own.backbone_rate,
        patience=patience,
        seed=seed,
    )


train = entry(_train)
