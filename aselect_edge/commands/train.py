"""aselect-train: parse, one call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from aselect_edge.commands.backbone import (
    WHAT,
    Condition,
    DeviceName,
    Family,
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
from aselect_runtime.records import HeadKind, Tap, Task

Loss = Literal["dice", "lovasz"]


def _train(
    backbone: Annotated[str, typer.Option(help=WHAT)],
    selection: Annotated[Path, typer.Option(help="The record written by aselect-select.")],
    data: Annotated[Path, typer.Option(help="A labelled folder, in one of the layouts of docs/data.md.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write; <out>.training is kept next to it.")],
    task: Annotated[Task, typer.Option()] = "seg",
    taps: Annotated[
        str | None, typer.Option(help="Replaces the selection's tap, for example 0.hidden,3.query.")
    ] = None,
    imgsz: Size = None,
    head: Annotated[
        HeadKind | None,
        typer.Option(help="seg: conv, edge or linear; cls: attention or linear. The first if left out."),
    ] = None,
    loss: Annotated[Loss, typer.Option(help="seg: added to the cross-entropy.")] = "dice",
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the backbone too.")] = False,
    unfreeze: Annotated[
        str | None, typer.Option(help="With --finetune: all, last:N blocks or lora:R (low rank); all if left out.")
    ] = None,
    random_backbone: Annotated[bool, typer.Option("--random-backbone", help="Baseline: use random weights.")] = False,
    noise_draws: Annotated[int, typer.Option(min=1, max=64, help="Mean over N draws of the noise, one pass each.")] = 1,
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
        typer.Option(min=0, callback=unset_at(0), help="Views of frames to train on; the task's default if left out."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=0, callback=unset_at(0), help="Frames per step; the task's default, at most --samples, if left out."
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, callback=unset_at(0), help="Peak learning rate of the head; the task's default if left out."
        ),
    ] = None,
    backbone_lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=unset_at(0),
            help="With --finetune: that of the backbone; 5e-4, for the shipped one, if left out.",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=0,
            callback=unset_at(0),
            help="Stop after N validations without a better figure; never if left out.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for features of the frozen backbone; runs may share it.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of weights, views and noise; the same seed gives the same bundle.")
    ] = 0,
    device: DeviceName = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=0, callback=unset_at(0), help="CPU threads; all if left out.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Train a head on the selected features; interrupted runs resume.

    Several processes share one run: torchrun --nproc-per-node N -m aselect_edge.commands.train --backbone ...
    """
    if not finetune and unfreeze not in (None, "all"):
        raise typer.BadParameter(f"got {unfreeze} without --finetune, expected both", param_hint="--unfreeze")
    if not finetune and backbone_lr is not None:
        raise typer.BadParameter(f"got {backbone_lr:g} without --finetune, expected both", param_hint="--backbone-lr")
    size = read(imgsz, "--imgsz", parse_size)
    places = read(taps, "--taps", lambda text: tuple(map(Tap.parse, parse_list(text))))

    import torch

    from aselect_edge.api import train
    from aselect_edge.team import leads
    from aselect_edge.training import Unfreeze
    from aselect_runtime.progress import terminal_progress

    read(unfreeze, "--unfreeze", Unfreeze.parse)

    if threads:
        torch.set_num_threads(threads)
    with terminal_progress(shown=leads()) as progress:
        outcome = train(
            backbone,
            selection,
            data,
            out,
            task=task,
            taps=places or (),
            imgsz=size,
            head=head,
            loss=loss,
            finetune=finetune,
            unfreeze=unfreeze if finetune else None,
            random_backbone=random_backbone,
            noise_draws=noise_draws,
            family=family,
            vae=vae,
            num_heads=num_heads or heads,
            sit_time=sit_time,
            sit_path=sit_path,
            condition=condition,
            label=label,
            revision=revision,
            samples=samples,
            batch=batch,
            lr=lr,
            backbone_lr=backbone_lr,
            patience=patience or 0,
            cache=cache,
            seed=seed,
            device=device,
            progress=progress,
        )
    if not leads():
        return
    figures = outcome.figures
    if as_json:
        shares = {figures.metric: figures.score, **figures.others}
        print(json.dumps({"out": str(out), **{f"val_{name}": share for name, share in shares.items()}}))
    else:
        print(f"val {figures.metric} {figures.score:.3f}\n{out}\nreport: {out}.training/report.html")


train = entry(
    _train,
    groups={
        "Learning": ["samples", "batch", "lr", "backbone_lr", "patience", "loss", "unfreeze", "random_backbone"],
        "Backbone": ["family", "vae", "num_heads", "sit_time", "sit_path", "condition", "label", "revision"],
        "Computing": ["noise_draws", "cache", "seed", "device", "threads"],
    },
    examples=[
        "aselect-train --backbone shipped --selection selection.json --data DATA --out BUNDLE",
        "aselect-train --backbone shipped --selection selection.json --data DATA --finetune --out TUNED",
    ],
)

if __name__ == "__main__":
    train()
