"""aselect-select: parse, one call, print.

For several processes: `torchrun --nproc-per-node N -m aselect_edge.commands.select BACKBONE …`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from aselect_edge.commands.backbone import (
    Backbone,
    Condition,
    Data,
    DeviceName,
    Family,
    Given,
    Heads,
    Json,
    Label,
    Revision,
    Size,
    Vae,
    Verbose,
)
from aselect_runtime.commands.entry import entry
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice, parse_size
from aselect_runtime.records import COMPONENTS

_STRATEGIES = (
    "hfr, hfr-signal, hfr-adaptive, smallest-sigma, fixed, uniform, learned: without labels. "
    "probe, exhaustive, gate: with. The recommended one without labels if left out."
)


def _select(
    backbone: Backbone,
    data: Data,
    out: Annotated[Path, typer.Option(help="The record to write; a picture goes beside it.")] = Path("selection.json"),
    strategy: Annotated[str, typer.Option(help=_STRATEGIES)] = "",
    task: Annotated[str, typer.Option(help="seg or cls; only strategies with labels ask.")] = "seg",
    images: Annotated[int, typer.Option(min=0, help="Images to look at, at most; 0 is the strategy's own.")] = 0,
    imgsz: Size = "",
    timesteps: Annotated[str, typer.Option(help="Comma separated; 21 even ones if left out.")] = "",
    components: Annotated[str, typer.Option(help="Comma separated, such as query,mlp; all if left out.")] = "",
    blocks: Annotated[int, typer.Option(min=0, help="Look at the first so many blocks; 0 is all.")] = 0,
    tap: Annotated[str, typer.Option(help="For strategies that choose the noise level alone, such as 9.query.")] = "",
    dimensions: Annotated[int, typer.Option(help="HFR over the grid (2) or the token sequence (1).")] = 2,
    amplitude: Annotated[bool, typer.Option("--amplitude", help="HFR of amplitude instead of power.")] = False,
    cutoff: Annotated[float, typer.Option(help="HFR's cutoff in cycles per token.")] = 0.15,
    dc: Annotated[bool, typer.Option("--dc", help="Count the mean in HFR's total.")] = False,
    confidence: Annotated[float, typer.Option(help="At which hfr-adaptive stops.")] = 0.95,
    head: Annotated[str, typer.Option(help="linear or conv: what exhaustive trains.")] = "linear",
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of exhaustive, learned and gate.")] = 200,
    family: Family = "",
    vae: Vae = "",
    heads: Heads = 0,
    condition: Condition = "",
    label: Label = -1,
    revision: Revision = "",
    batch: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 8,
    device: DeviceName = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise and of which images are looked at.")] = 0,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Find the noise level, block and component whose features know most.

    Several processes share one scan: torchrun --nproc-per-node N -m aselect_edge.commands.select BACKBONE ...
    """
    from rich.console import Console

    from aselect_edge.backbones.device import find_device
    from aselect_edge.evaluation.pictures import draw_selection
    from aselect_edge.selection import STRATEGIES, Measure, Request, Settings, select_tap
    from aselect_edge.selection.strategies import DEFAULT
    from aselect_edge.selection.team import assemble
    from aselect_runtime.progress import terminal_progress
    from aselect_runtime.records import Tap

    if out.suffix != ".json":
        raise InputError(f"got --out {out}, expected a name that ends in .json; the picture goes beside it as .png")
    choice(str(dimensions), ("1", "2"), "--dimensions")
    request = Request(
        strategy=choice(strategy or DEFAULT, tuple(STRATEGIES), "--strategy"),
        task=choice(task, ("seg", "cls"), "--task"),  # type: ignore[arg-type]
        images=images or None,
        imgsz=parse_size(imgsz) if imgsz else None,
        timesteps=_numbers(timesteps),
        components=[choice(part.strip(), COMPONENTS, "--components") for part in components.split(",") if part] or None,  # type: ignore[misc]
        blocks=blocks or None,
        batch=batch,
        seed=seed,
        device=find_device(device),  # refused here, not after a backbone of gigabytes is read
        settings=Settings(
            measure=Measure(dimensions, not amplitude, cutoff, dc),  # type: ignore[arg-type]
            tap=Tap.parse(tap) if tap else None,
            confidence=confidence,
            head=choice(head, ("linear", "conv"), "--head"),  # type: ignore[arg-type]
            steps=steps,
        ),
    )
    # Paths may hold brackets, which rich would take for its markup, and must not be broken across lines.
    console = Console(stderr=True, markup=False, soft_wrap=True)
    with assemble() as team, terminal_progress(shown=team.leads) as progress:
        given = Given(family, vae, heads, condition, revision)
        loaded = given.load(backbone, None if label < 0 else label, None)
        selection = select_tap(loaded, data, request, team=team, resume=out, progress=progress)
    if not team.leads:
        return
    selection.save(out)
    drawn = draw_selection(selection, out.with_suffix(".png"))
    if as_json:
        print(json.dumps({"out": str(out), "tap": str(selection.tap), **selection.noise.model_dump()}))
        return
    console.print(f"{selection.tap} at sigma {selection.noise.sigma:.3f} (timestep {selection.noise.model_timestep:g})")
    console.print(selection.note)
    for path in (out, out.with_suffix(".png")) if drawn else (out,):
        console.print(str(path))


def _numbers(text: str) -> list[float] | None:
    try:
        numbers = [float(part) for part in text.split(",")] if text else None
    except ValueError:
        numbers = [math.nan]
    if numbers and not all(map(math.isfinite, numbers)):
        raise InputError(f"got the timesteps {text!r}, expected numbers such as 0,50,100; correct them")
    return numbers


select = entry(_select)

if __name__ == "__main__":
    select()
