"""aselect-train: parse, one call, print.

For several processes: `torchrun --nproc-per-node N -m aselect_edge.commands.train --backbone …`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from aselect_edge.commands.backbone import WHAT, BackboneChoice, DeviceName, Size
from aselect_edge.commands.threads import Threads, use_threads
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import HelpAll, Json, Verbose, read, unset_at
from aselect_runtime.commands.records import option_names
from aselect_runtime.options import parse_list, parse_size
from aselect_runtime.progress import terminal_progress
from aselect_runtime.records import MOST_DRAWS, CleanLevels, HeadKind, Tap, Task

Loss = Literal["dice", "lovasz"]


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How the head, or the backbone too, learns."""

    samples: Annotated[
        int | None,
        typer.Option(min=0, callback=unset_at(0), help="Views to train on; seg 16000, cls 64000 if left out."),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(
            min=0, callback=unset_at(0), help="Frames per step; seg 8, cls 32, at most --samples, if left out."
        ),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, callback=unset_at(0), help="Peak learning rate of the head; seg 0.002, cls 0.001 if left out."
        ),
    ] = None
    backbone_lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=unset_at(0),
            help="With --finetune: that of the backbone; 5e-4, for the shipped one, if left out.",
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(
            min=0,
            callback=unset_at(0),
            help="Stop after N validations without a better figure; never if left out.",
        ),
    ] = None
    loss: Annotated[Loss, typer.Option(help="seg: added to the cross-entropy.")] = "dice"
    unfreeze: Annotated[
        str | None, typer.Option(help="With --finetune: all, last:N blocks or lora:R (low rank); all if left out.")
    ] = None
    random_backbone: Annotated[
        bool, typer.Option("--random-backbone", hidden=True, help="Baseline: use random weights.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Whether and how a copy of the backbone first learns to need no noise."""

    clean: Annotated[
        bool, typer.Option("--clean", help="First train a copy of the backbone to need no noise; see docs/training.md.")
    ] = False
    clean_levels: Annotated[
        CleanLevels | None,
        typer.Option(hidden=True, help="With --clean: the selected noise level, or sampled; selected if left out."),
    ] = None
    clean_samples: Annotated[
        int | None,
        typer.Option(
            hidden=True, min=0, callback=unset_at(0), help="With --clean: images to train on; 4000 if left out."
        ),
    ] = None
    clean_lr: Annotated[
        float | None,
        typer.Option(
            hidden=True,
            min=0,
            max=1,
            callback=unset_at(0),
            help="With --clean: learning rate of the copy; 1e-5 if left out.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Computing:
    """On what it computes, and with which noise."""

    noise_draws: Annotated[
        int, typer.Option(min=1, max=MOST_DRAWS, help="Mean over N draws of the noise, one pass each.")
    ] = 1
    discard_channels: Annotated[
        str,
        typer.Option(metavar="LIST", help="Channels of the taps to set to zero: auto, none or 12,85."),
    ] = "none"
    cache: Annotated[
        Path | None, typer.Option(help="Folder for features of the frozen backbone; runs may share it.")
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of weights, views and noise; the same gives the same bundle.")
    ] = 0
    device: DeviceName = "cpu"


@dataclass(frozen=True, kw_only=True)
class SelectedBackbone(BackboneChoice):
    """`BackboneChoice`, conditioned on the class that the selection was made with."""

    label: Annotated[
        int | None,
        typer.Option(min=-1, callback=unset_at(-1), help="Class to condition on; the selection's if left out."),
    ] = None


def _train(
    *,
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
        typer.Option(
            metavar="NAME", help="seg: conv, edge or linear; cls: attention or linear. The first if left out."
        ),
    ] = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the backbone too.")] = False,
    learning: Learning,
    cleaning: Cleaning,
    source: SelectedBackbone,
    computing: Computing,
    threads: Threads = None,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
    help_all: HelpAll = False,  # noqa: ARG001 - its callback shows the help
) -> None:
    """Train a head on the selected features; interrupted runs resume, and torchrun's processes share one run."""
    if not finetune and learning.unfreeze not in (None, "all"):
        raise typer.BadParameter(f"got {learning.unfreeze} without --finetune, expected both", param_hint="--unfreeze")
    if not finetune and learning.backbone_lr is not None:
        raise typer.BadParameter(
            f"got {learning.backbone_lr:g} without --finetune, expected both", param_hint="--backbone-lr"
        )
    for name, value in vars(cleaning).items():
        if name != "clean" and value is not None and not cleaning.clean:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"got {value} without --clean, expected both", param_hint=option)
    size = read(imgsz, "--imgsz", parse_size)
    places = read(taps, "--taps", lambda text: tuple(map(Tap.parse, parse_list(text))))

    from aselect_edge.api import train
    from aselect_edge.bundle.discard import parse_channels
    from aselect_edge.team import leads
    from aselect_edge.training import Unfreeze
    from aselect_edge.training.comparison import told

    read(learning.unfreeze, "--unfreeze", Unfreeze.parse)
    read(computing.discard_channels, "--discard-channels", parse_channels)

    asked = {"unfreeze": learning.unfreeze if finetune else None, "patience": learning.patience or 0}
    use_threads(threads)
    with terminal_progress(shown=leads(), resumes=True) as progress:
        outcome = train(
            backbone,
            selection,
            data,
            out,
            task=task,
            taps=places or (),
            imgsz=size,
            head=head,
            finetune=finetune,
            progress=progress,
            **(vars(learning) | vars(cleaning) | vars(source) | vars(computing) | asked),
        )
    if not leads():
        return
    figures = outcome.figures
    if as_json:
        shares = {figures.metric: figures.score, **figures.others}
        print(json.dumps({"out": str(out), **{f"val_{name}": share for name, share in shares.items()}}))
    else:
        print(f"val {figures.metric} {figures.score:.3f}\n{out}\nreport: {out}.training/report.html")
        if outcome.reference:
            print(told(outcome.reference))
        images = shlex.quote(str(data))
        print(f"next: aselect-export --model {shlex.quote(str(out))} --precision fp32 --data {images}")


train = entry(
    _train,
    groups={
        "Learning and computing": (
            *option_names(Learning),
            *option_names(Cleaning),
            *option_names(Computing),
            "threads",
        ),
        "Backbone": option_names(SelectedBackbone),
    },
    examples=[
        "aselect-train --backbone shipped --selection selection.json --data DATA --out BUNDLE",
    ],
)

if __name__ == "__main__":
    train()
