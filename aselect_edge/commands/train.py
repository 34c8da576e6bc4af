"""aselect-train: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aselect_edge.commands.backbone import (
    WHAT,
    Condition,
    DeviceName,
    Family,
    Given,
    Heads,
    NumHeads,
    Revision,
    SitPath,
    SitTime,
    Size,
    Vae,
)
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Verbose, read, unset_at
from aselect_runtime.options import parse_list, parse_size
from aselect_runtime.records import HeadKind, HeadSpec, Selection, Tap, Task

if TYPE_CHECKING:
    from aselect_edge.training import Recipe

Loss = Literal["dice", "lovasz"]


def _train(
    backbone: Annotated[str, typer.Option(help=WHAT)],
    selection: Annotated[Path, typer.Option(help="What aselect-select wrote.")],
    data: Annotated[Path, typer.Option(help="A labelled folder, in one of the layouts of docs/data.md.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write; <out>.training is kept beside it.")],
    task: Annotated[Task, typer.Option()] = "seg",
    taps: Annotated[
        str | None, typer.Option(help="Replaces the selection's tap, for example 0.hidden,3.query.")
    ] = None,
    imgsz: Size = None,
    head: Annotated[
        HeadKind | None,
        typer.Option(help="seg: conv, edge or linear; cls: attention or linear. The first if left out."),
    ] = None,
    loss: Annotated[Loss, typer.Option(help="seg: beside the cross-entropy.")] = "dice",
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the backbone too.")] = False,
    unfreeze: Annotated[
        str | None, typer.Option(help="With --finetune: all, last:N blocks or lora:R (low rank); all if left out.")
    ] = None,
    random_backbone: Annotated[bool, typer.Option("--random-backbone", help="Baseline: forget the weights.")] = False,
    noise_draws: Annotated[int, typer.Option(min=1, max=64, help="Mean over so many draws, a pass each.")] = 1,
    family: Family = None,
    vae: Vae = None,
    num_heads: NumHeads = None,
    heads: Heads = None,
    condition: Condition = None,
    label: Annotated[
        int | None,
        typer.Option(min=-1, callback=unset_at(-1), help="Class to condition on; the selection's if left out."),
    ] = None,
    revision: Revision = None,
    sit_time: SitTime = None,
    sit_path: SitPath = None,
    samples: Annotated[
        int | None,
        typer.Option(min=0, callback=unset_at(0), help="Views of frames to train on; the task's own if left out."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=0, callback=unset_at(0), help="Frames per step; the task's own, at most --samples, if left out."
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, callback=unset_at(0), help="Peak learning rate of the head; the task's own if left out."
        ),
    ] = None,
    backbone_lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=unset_at(0),
            help="With --finetune: of the backbone; 5e-4, meant for the shipped one, if left out.",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=0,
            callback=unset_at(0),
            help="Stop after so many validations without a better figure; never if left out.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where features of the frozen backbone are kept; runs may share it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, views and noise; the same gives the same bundle.")] = 0,
    device: DeviceName = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=0, callback=unset_at(0), help="CPU threads; all if left out.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Train a head on the selected features; interrupted runs go on where they stood."""
    if not finetune and unfreeze not in (None, "all"):
        raise typer.BadParameter(f"got {unfreeze} without --finetune, expected both", param_hint="--unfreeze")
    if not finetune and backbone_lr is not None:
        raise typer.BadParameter(f"got {backbone_lr:g} without --finetune, expected both", param_hint="--backbone-lr")
    size = read(imgsz, "--imgsz", parse_size)
    places = read(taps, "--taps", lambda text: tuple(map(Tap.parse, parse_list(text))))

    import torch

    from aselect_edge.backbones.device import find_device
    from aselect_edge.training import TrainRequest, Unfreeze, train_bundle
    from aselect_runtime.progress import terminal_progress

    learning = read((unfreeze or "all") if finetune else None, "--unfreeze", Unfreeze.parse)
    if threads:
        torch.set_num_threads(threads)
    chosen = Selection.load(selection)
    request = TrainRequest(
        task=task,
        source=backbone,
        selection=chosen,
        data=data,
        out=out,
        taps=places or (),
        imgsz=size,
        head=HeadSpec(kind=head, channels=128) if head else None,
        recipe=_recipe(task, loss, samples, batch, lr, backbone_lr, patience, seed),
        unfreeze=learning,
        random_backbone=random_backbone,
        noise_draws=noise_draws,
        cache=cache,
        device=find_device(device),
    )
    with terminal_progress() as progress:
        given = Given(family, vae, num_heads or heads, condition, revision, sit_time, sit_path)
        loaded = given.load(backbone, chosen.label if label is None else label, request.depth)
        outcome = train_bundle(replace(request, source=loaded), progress)
    figures = outcome.figures
    if as_json:
        shares = {figures.metric: figures.score, **figures.others}
        print(json.dumps({"out": str(out), **{f"val_{name}": share for name, share in shares.items()}}))
    else:
        print(f"val {figures.metric} {figures.score:.3f}\n{out}\nplots: {request.workdir}")


def _recipe(
    task: Task,
    loss: Loss,
    samples: int | None,
    batch: int | None,
    lr: float | None,
    backbone_lr: float | None,
    patience: int | None,
    seed: int,
) -> Recipe:
    """The task's recipe with what was asked for in place of its own."""
    from aselect_edge.training import RECIPES

    own = RECIPES[task]
    return replace(
        own,
        overlap=loss,
        samples=samples or own.samples,
        batch=batch or min(own.batch, samples or own.batch),
        learning_rate=lr or own.learning_rate,
        backbone_rate=backbone_lr or own.backbone_rate,
        patience=patience or own.patience,
        seed=seed,
    )


train = entry(_train)
