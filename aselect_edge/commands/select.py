"""aselect-select: parse, one call, print.

For several processes: `torchrun --nproc-per-node N -m aselect_edge.commands.select BACKBONE …`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from aselect_edge.commands.backbone import (
    Backbone,
    Condition,
    DeviceName,
    Family,
    Heads,
    Label,
    NumHeads,
    Revision,
    SitPath,
    SitTime,
    Size,
    Vae,
)
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Verbose, read, unset_at
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice, parse_list, parse_size
from aselect_runtime.records import COMPONENTS, Component, Tap, Task

StrategyName = Literal[
    "hfr",
    "hfr-signal",
    "hfr-adaptive",
    "probe",
    "exhaustive",
    "smallest-sigma",
    "fixed",
    "uniform",
    "learned",
    "gate",
]
_STRATEGY = (
    "probe, exhaustive and gate need labels; smallest-sigma, fixed and uniform need no data; uniform, learned and gate "
    "are for study. smallest-sigma if left out, with --timestep fixed."
)


def _select(
    backbone: Backbone,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with train/ and val/; without labels any images, or a video."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The record to write; a plot is written next to it.")] = Path(
        "selection.json"
    ),
    strategy: Annotated[StrategyName | None, typer.Option(help=_STRATEGY)] = None,
    task: Annotated[Task, typer.Option(help="For strategies that need labels.")] = "seg",
    images: Annotated[
        int | None,
        typer.Option(min=0, callback=unset_at(0), help="Maximum number of images; the strategy's default if left out."),
    ] = None,
    imgsz: Size = None,
    timestep: Annotated[float | None, typer.Option(help="Use this timestep, without a scan for it.")] = None,
    timesteps: Annotated[str | None, typer.Option(help="Comma separated; 21 even ones if left out.")] = None,
    components: Annotated[str | None, typer.Option(help="Comma separated, such as query,mlp; all if left out.")] = None,
    blocks: Annotated[
        int | None, typer.Option(min=0, callback=unset_at(0), help="Scan the first N blocks; all if left out.")
    ] = None,
    tap: Annotated[
        str | None, typer.Option(help="Such as 9.query: for strategies that choose only the noise level.")
    ] = None,
    dimensions: Annotated[int, typer.Option(min=1, max=2, help="HFR over the grid (2) or the token sequence (1).")] = 2,
    amplitude: Annotated[bool, typer.Option("--amplitude", help="HFR of amplitude instead of power.")] = False,
    cutoff: Annotated[float, typer.Option(help="HFR's cutoff in cycles per token.")] = 0.15,
    dc: Annotated[bool, typer.Option("--dc", help="Count the mean in HFR's total.")] = False,
    confidence: Annotated[float, typer.Option(help="Confidence at which hfr-adaptive stops.")] = 0.95,
    head: Annotated[Literal["linear", "conv"], typer.Option(help="The head that exhaustive trains.")] = "linear",
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of exhaustive, learned and gate.")] = 200,
    family: Family = None,
    vae: Vae = None,
    num_heads: NumHeads = None,
    heads: Heads = None,
    condition: Condition = None,
    label: Label = None,
    revision: Revision = None,
    sit_time: SitTime = None,
    sit_path: SitPath = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 8,
    device: DeviceName = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise and of the choice of images.")] = 0,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Find the noise level, block and component with the most informative features.

    With --timestep, --tap or both and no --data, writes the given values without a scan.

    Several processes share one scan: torchrun --nproc-per-node N -m aselect_edge.commands.select BACKBONE ...
    """
    if out.suffix != ".json":
        raise typer.BadParameter(f"got {out}, expected a name that ends in .json", param_hint="--out")
    if timestep is not None and timesteps is not None:
        raise typer.BadParameter("got --timesteps too, expected one of them", param_hint="--timestep")
    levels = read(timesteps, "--timesteps", _numbers)
    wanted = read(components, "--components", _components)
    place = read(tap, "--tap", Tap.parse)
    size = read(imgsz, "--imgsz", parse_size)

    from rich.console import Console

    from aselect_edge.api import select
    from aselect_edge.team import leads
    from aselect_runtime.progress import terminal_progress

    with terminal_progress(shown=leads()) as progress:
        selection = select(
            backbone,
            data,
            out=out,
            strategy=strategy,
            task=task,
            images=images,
            imgsz=size,
            timestep=timestep,
            timesteps=levels,
            components=wanted,
            blocks=blocks,
            tap=place,
            dimensions=dimensions,  # type: ignore[arg-type]
            amplitude=amplitude,
            cutoff=cutoff,
            dc=dc,
            confidence=confidence,
            head=head,
            steps=steps,
            family=family,
            vae=vae,
            num_heads=num_heads or heads,
            sit_time=sit_time,
            sit_path=sit_path,
            condition=condition,
            label=label,
            revision=revision,
            batch=batch,
            device=device,
            seed=seed,
            progress=progress,
        )
    if not leads():
        return
    if as_json:
        print(json.dumps({"out": str(out), "tap": str(selection.tap), **selection.noise.model_dump()}))
        return
    # Paths may hold brackets, which rich would interpret as markup, and must not be broken across lines.
    console = Console(stderr=True, markup=False, soft_wrap=True)
    console.print(f"{selection.tap} at sigma {selection.noise.sigma:.3f} (timestep {selection.noise.model_timestep:g})")
    console.print(selection.note)
    drawn = [out.with_suffix(".png")] if selection.scores or selection.mixture or selection.distribution else []
    features = [out.with_suffix(".features.png")] if selection.scores and data else []
    for path in (out, *drawn, *features):
        console.print(str(path))


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"got the timesteps {text!r}, expected numbers such as 0,50,100; correct them")
    return numbers


def _components(text: str) -> list[Component]:
    return [choice(part, COMPONENTS, "component") for part in parse_list(text)]  # type: ignore[misc]


select = entry(
    _select,
    groups={
        "Candidates": ["timesteps", "components", "blocks", "images", "batch", "seed", "device"],
        "Options of some strategies": ["dimensions", "amplitude", "cutoff", "dc", "confidence", "head", "steps"],
        "Backbone": ["family", "vae", "num_heads", "sit_time", "sit_path", "condition", "label", "revision"],
    },
    examples=[
        "aselect-select shipped --data DATA --strategy probe",
        "aselect-select shipped --timestep 100 --tap 3.query",
    ],
)

if __name__ == "__main__":
    select()
