"""aselect-select and aselect-train: parse, one call, print."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aselect_edge.command import choice, entry, parse_size
from aselect_edge.errors import InputError

_Verbose = Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
_Backbone = Annotated[str, typer.Argument(help="A diffusers folder, a hub id, or shipped.")]
_Data = Annotated[Path, typer.Option(help="Folder with train/ and val/, or for hfr any folder of images.")]
_Size = Annotated[str, typer.Option(metavar="HxW", help="Input size; the backbone's own square if left out.")]


def _select(
    backbone: _Backbone,
    data: _Data,
    out: Annotated[Path, typer.Option(help="The record to write; a picture goes beside it.")] = Path("selection.json"),
    strategy: Annotated[str, typer.Option(help="hfr (label-free) or probe (needs labels).")] = "hfr",
    task: Annotated[str, typer.Option(help="seg or cls; only the probe asks.")] = "seg",
    images: Annotated[int, typer.Option(min=1, help="Frames to look at, at most.")] = 64,
    imgsz: _Size = "",
    timesteps: Annotated[str, typer.Option(help="Timestep indices, comma separated; 21 even ones if left out.")] = "",
    blocks: Annotated[int, typer.Option(min=0, help="Look at the first so many blocks; 0 is all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fixed noise.")] = 0,
    as_json: _Json = False,
    verbose: _Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Find the noise level, block and component whose features know most."""
    from rich.console import Console

    from aselect_edge.pictures import draw_selection
    from aselect_edge.select.run import select_tap

    choice(strategy, ("hfr", "probe"), "--strategy")
    choice(task, ("seg", "cls"), "--task")
    if out.suffix != ".json":
        raise InputError(f"got --out {out}, expected a name that ends in .json; the picture goes beside it as .png")
    if task != "seg" and strategy == "probe":
        raise InputError(f"got --task {task} for the probe, expected seg; use --strategy hfr")
    size = parse_size(imgsz) if imgsz else None
    # Paths may hold brackets, which rich would take for its markup, and must not be broken across lines.
    console = Console(stderr=True, markup=False, soft_wrap=True)
    with _progress(console) as tell:
        steps = _integers(timesteps)
        selection = select_tap(backbone, data, strategy, images, size, steps, blocks or None, seed, tell, console.print)  # type: ignore[arg-type]
    selection.save(out)
    draw_selection(selection, out.with_suffix(".png"))
    if as_json:
        print(json.dumps({"out": str(out), "tap": str(selection.tap), **selection.noise.model_dump()}))
        return
    console.print(f"{selection.tap} at sigma {selection.noise.sigma:.3f} (timestep {selection.noise.model_timestep:g})")
    console.print(f"{selection.note}\n{out}\n{out.with_suffix('.png')}")


def _train(
    backbone: Annotated[str, typer.Option(help="A diffusers folder, a hub id, or shipped.")],
    selection: Annotated[Path, typer.Option(help="What aselect-select wrote.")],
    data: Annotated[Path, typer.Option(help="Folder with train/ and val/, each images/ and labels/.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    task: Annotated[str, typer.Option(help="seg; cls is not in this version.")] = "seg",
    taps: Annotated[str, typer.Option(help="Replaces the selection's tap, for example 0.hidden,3.query.")] = "",
    imgsz: _Size = "",
    head: Annotated[str, typer.Option(help="conv or linear.")] = "conv",
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the backbone's blocks too.")] = False,
    random_backbone: Annotated[bool, typer.Option("--random-backbone", help="Baseline: forget the weights.")] = False,
    samples: Annotated[int, typer.Option(min=1, help="Frames to train on, views of one frame counted each.")] = 16_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 is all.")] = 0,
    as_json: _Json = False,
    verbose: _Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Train a head on the selected features; interrupted runs go on where they stood."""
    import torch
    from rich.console import Console

    from aselect_edge.records import HeadSpec, Selection, Tap
    from aselect_edge.training import Recipe, train_bundle

    choice(task, ("seg", "cls"), "--task")
    choice(head, ("conv", "linear"), "--head")
    if threads:
        torch.set_num_threads(threads)
    console = Console(stderr=True, markup=False, soft_wrap=True)
    with _progress(console) as tell:
        outcome = train_bundle(
            task,  # type: ignore[arg-type]
            backbone,
            Selection.load(selection),
            data,
            out,
            [Tap.parse(tap) for tap in taps.split(",") if tap],
            parse_size(imgsz) if imgsz else None,
            HeadSpec(kind=head, channels=128),  # type: ignore[arg-type]
            finetune,
            random_backbone,
            Recipe(samples=samples, seed=seed),
            tell,
            console.print,
        )
    if as_json:
        print(json.dumps({"out": str(out), "val_miou": outcome.val_miou}))
    else:
        print(f"val mIoU {outcome.val_miou:.3f}\n{out}")


@contextmanager
def _progress(console: object) -> Iterator[Callable[[str, float], None]]:
    from rich.progress import Progress

    with Progress(console=console) as progress:  # type: ignore[arg-type]
        task = progress.add_task("starting", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)


def _integers(text: str) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError as error:
        raise InputError(f"got the timesteps {text!r}, expected integers such as 0,50,100; correct them") from error


select = entry(_select)
train = entry(_train)
