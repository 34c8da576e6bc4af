"""aselect-select: parse, one call, print.

For several processes: `torchrun --nproc-per-node N -m aselect_edge.commands.select BACKBONE …`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from aselect_edge.commands.backbone import Backbone, BackboneChoice, DeviceName, Size
from aselect_edge.commands.threads import Threads, use_threads
from aselect_edge.options import parse_components, parse_timesteps
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import HelpAll, Json, Verbose, read, unset_at
from aselect_runtime.commands.records import option_names
from aselect_runtime.options import parse_size
from aselect_runtime.progress import terminal_progress
from aselect_runtime.records import Selection, Tap, Task

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
    "With labels probe (the default), exhaustive, gate; without hfr, hfr-signal, hfr-adaptive, learned; without data "
    "smallest-sigma (the default), fixed, uniform."
)


_LINES = 8
"""So many taps with massive channels are printed."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What is scanned, and on which images."""

    timesteps: Annotated[str | None, typer.Option(help="Comma separated; 21 even ones if left out.")] = None
    components: Annotated[str | None, typer.Option(help="Comma separated, such as query,mlp; all if left out.")] = None
    blocks: Annotated[
        int | None, typer.Option(min=0, callback=unset_at(0), help="Scan the first N blocks; all if left out.")
    ] = None
    images: Annotated[
        int | None,
        typer.Option(min=0, callback=unset_at(0), help="Maximum number of images; 64, with labels 256 if left out."),
    ] = None
    batch: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 8
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise and of the choice of images.")] = 0
    device: DeviceName = "cpu"


@dataclass(frozen=True, kw_only=True)
class OfStrategies:
    """Options of some strategies."""

    dimensions: Annotated[
        int, typer.Option(hidden=True, min=1, max=2, help="HFR over the grid (2) or the token sequence (1).")
    ] = 2
    amplitude: Annotated[bool, typer.Option("--amplitude", hidden=True, help="HFR of amplitude instead of power.")] = (
        False
    )
    cutoff: Annotated[float, typer.Option(hidden=True, help="HFR's cutoff in cycles per token.")] = 0.15
    dc: Annotated[bool, typer.Option("--dc", hidden=True, help="Count the mean in HFR's total.")] = False
    confidence: Annotated[float, typer.Option(hidden=True, help="Confidence at which hfr-adaptive stops.")] = 0.95
    head: Annotated[Literal["linear", "conv"], typer.Option(hidden=True, help="The head that exhaustive trains.")] = (
        "linear"
    )
    steps: Annotated[int, typer.Option(hidden=True, min=1, help="Gradient steps of exhaustive, learned and gate.")] = (
        200
    )


def _select(
    *,
    backbone: Backbone,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with train/ and val/; without labels any images, or a video."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The record to write; a plot is written next to it.")] = Path(
        "selection.json"
    ),
    strategy: Annotated[StrategyName | None, typer.Option(metavar="NAME", help=_STRATEGY)] = None,
    task: Annotated[Task, typer.Option(help="For strategies that need labels.")] = "seg",
    imgsz: Size = None,
    timestep: Annotated[float | None, typer.Option(help="Use this timestep, without a scan for it.")] = None,
    tap: Annotated[
        str | None, typer.Option(help="Such as 9.query: for strategies that choose only the noise level.")
    ] = None,
    candidates: Candidates,
    of_strategies: OfStrategies,
    source: BackboneChoice,
    threads: Threads = None,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
    help_all: HelpAll = False,  # noqa: ARG001 - its callback shows the help
) -> None:
    """Find the noise level, block and component with the most informative features.

    With --timestep, --tap or both and no --data, writes the given values without a scan.
    """
    if out.suffix != ".json":
        raise typer.BadParameter(f"got {out}, expected a name that ends in .json", param_hint="--out")
    if timestep is not None and candidates.timesteps is not None:
        raise typer.BadParameter("got --timesteps too, expected one of them", param_hint="--timestep")
    read_options = {
        "imgsz": read(imgsz, "--imgsz", parse_size),
        "timesteps": read(candidates.timesteps, "--timesteps", parse_timesteps),
        "components": read(candidates.components, "--components", parse_components),
        "tap": read(tap, "--tap", Tap.parse),
    }

    from rich.console import Console

    from aselect_edge.api import select
    from aselect_edge.team import leads

    use_threads(threads)
    with terminal_progress(shown=leads(), resumes=True) as progress:
        selection = select(
            backbone,
            data,
            out=out,
            strategy=strategy,
            task=task,
            timestep=timestep,
            progress=progress,
            **(vars(candidates) | vars(of_strategies) | vars(source) | read_options),
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
    for line in _massive(selection):
        console.print(line)
    drawn = [out.with_suffix(".png")] if selection.scores or selection.mixture or selection.distribution else []
    features = [out.with_suffix(".features.png")] if selection.scores and data else []
    for path in (out, *drawn, *features):
        console.print(str(path))
    options = ["--task", task, "--backbone", backbone, "--selection", str(out), "--data", str(data or "DATA")]
    for name, value in {"imgsz": imgsz, **vars(source), "label": None}.items():  # the selection holds the label
        options += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    console.print(f"next: {shlex.join(['aselect-train', *options, '--out', f'my-{task}'])}")


def _massive(selection: Selection) -> list[str]:
    """A line for each tap with massive channels, that of the chosen tap first."""
    found = sorted(selection.massive, key=lambda each: each.tap != selection.tap)
    if not found:
        return []
    rows = [f"{each.tap}: {', '.join(map(str, each.channels))} (up to {each.ratio:.0f}x the median)" for each in found]
    more = [f"and {len(rows) - _LINES} more taps, see the record"] if len(rows) > _LINES else []
    return ["massive channels, which aselect-train can discard:", *rows[:_LINES], *more]


select = entry(
    _select,
    groups={
        "Candidates": [*option_names(Candidates), "threads"],
        "Options of some strategies": option_names(OfStrategies),
        "Backbone": option_names(BackboneChoice),
    },
    examples=[
        "aselect-select shipped --data DATA",
        "aselect-select shipped --timestep 100 --tap 3.query",
    ],
)

if __name__ == "__main__":
    select()
