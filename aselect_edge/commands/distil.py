"""aselect-distil: parse, one call, print."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from aselect_edge.commands.backbone import DeviceName
from aselect_edge.commands.threads import Threads, use_threads
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Verbose, unset_at
from aselect_runtime.commands.records import option_names
from aselect_runtime.progress import terminal_progress


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How the stem learns, and its size."""

    samples: Annotated[
        int | None, typer.Option(min=0, callback=unset_at(0), help="Views to learn from; 16000 if left out.")
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(min=0, callback=unset_at(0), help="Frames per step; 16, at most --samples, if left out."),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(min=0, max=1, callback=unset_at(0), help="Peak learning rate; 2e-3 if left out."),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(
            min=0, callback=unset_at(0), help="Stop after so many validations without a better one; never if left out."
        ),
    ] = None
    images: Annotated[int, typer.Option(min=1, help="At most so many images or frames of the data.")] = 4096
    width: Annotated[
        int | None, typer.Option(min=8, max=4096, help="Channels of the stem; 256, on pixels 64, if left out.")
    ] = None
    blocks: Annotated[
        int | None, typer.Option(min=0, max=64, help="Residual blocks of the stem; 4, on pixels 1, if left out.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Computing:
    """On what it computes, and with which views."""

    cache: Annotated[Path | None, typer.Option(help="Where the full model's features are kept; runs may share it.")] = (
        None
    )
    seed: Annotated[int, typer.Option(min=0, help="Of weights and views; the same gives the same bundle.")] = 0
    device: DeviceName = "cpu"


def _distil(
    *,
    bundle: Annotated[Path, typer.Argument(help="A bundle that aselect-train wrote.")],
    data: Annotated[Path, typer.Option(help="Images or a video; labels of the same classes train the head besides.")],
    out: Annotated[
        Path, typer.Option(help="The bundle folder to write, which may be the same; <out>.training is kept beside it.")
    ],
    learning: Learning,
    computing: Computing,
    threads: Threads = None,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Let a small convolutional stem learn what autoencoder and patch embedding give; interrupted runs go on."""
    from aselect_edge.distillation import distil

    asked = {"patience": learning.patience or 0}
    use_threads(threads)
    with terminal_progress(resumes=True) as progress:
        result = distil(bundle, data, out, progress=progress, **(vars(learning) | vars(computing) | asked))
    found = result.record
    if as_json:
        print(json.dumps({"out": str(out), **found.model_dump(mode="json")}))
        return
    print(
        f"agreement with the full model {found.agreement:.3f}, variance of the features explained {found.explained:.3f}"
    )
    print(
        f"replaces {found.replaces}: {found.cost.parameters / 1e6:.2f} M parameters instead of "
        f"{found.full.parameters / 1e6:.2f} M, {found.cost.macs / 1e9:.3f} G multiply-accumulates instead of "
        f"{found.full.macs / 1e9:.3f} G"
    )
    following = ["aselect-export", "--model", str(out), "--encoder", "distilled", "--data", str(data)]
    print(f"{out}; next: {shlex.join(following)}")


distil = entry(
    _distil,
    groups={
        "Learning": option_names(Learning),
        "Computing": (*option_names(Computing), "threads"),
    },
    examples=["aselect-distil BUNDLE --data IMAGES --out DISTILLED"],
)
