"""aselect-select and aselect-train: parse, one call, print."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aselect_edge.command import choice, entry, parse_size
from aselect_edge.errors import InputError
from aselect_edge.records import COMPONENTS

if TYPE_CHECKING:
    from rich.console import Console

    from aselect_edge.backbones import LoadedBackbone
    from aselect_edge.records import HeadSpec
    from aselect_edge.training import Recipe

_Verbose = Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
_WHAT = "A diffusers folder or hub id, a .pt file of DiT or SiT, a bundle, or shipped."
_Backbone = Annotated[str, typer.Argument(help=_WHAT)]
_Family = Annotated[str, typer.Option(help="dit, sit, sd3 or pixart, where the source does not say or says wrong.")]
_Vae = Annotated[str, typer.Option(help="Folder or hub id of the autoencoder, where it is not with the backbone.")]
_Heads = Annotated[int, typer.Option(min=0, help="Attention heads of a .pt file of unpublished width; 0 is unknown.")]
_Condition = Annotated[
    str, typer.Option(help="The empty prompt's embeddings as safetensors, instead of running text encoders.")
]
_Label = Annotated[int, typer.Option(min=-1, help="Class to condition on; -1 is none.")]
_Revision = Annotated[str, typer.Option(help="Revision of a hub id.")]
_Data = Annotated[Path, typer.Option(help="Folder with train/ and val/; without labels any images, or a video.")]
_Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
_Size = Annotated[str, typer.Option(metavar="HxW", help="Input size; the backbone's own square if left out.")]

_STRATEGIES = (
    "hfr, hfr-signal, hfr-adaptive, smallest-sigma, fixed, uniform, learned: without labels. "
    "probe, exhaustive, gate: with. The recommended one without labels if left out."
)


def _select(
    backbone: _Backbone,
    data: _Data,
    out: Annotated[Path, typer.Option(help="The record to write; a picture goes beside it.")] = Path("selection.json"),
    strategy: Annotated[str, typer.Option(help=_STRATEGIES)] = "",
    task: Annotated[str, typer.Option(help="seg or cls; only strategies with labels ask.")] = "seg",
    images: Annotated[int, typer.Option(min=0, help="Images to look at, at most; 0 is the strategy's own.")] = 0,
    imgsz: _Size = "",
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
    family: _Family = "",
    vae: _Vae = "",
    heads: _Heads = 0,
    condition: _Condition = "",
    label: _Label = -1,
    revision: _Revision = "",
    batch: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 8,
    device: _Device = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise and of which images are looked at.")] = 0,
    as_json: _Json = False,
    verbose: _Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Find the noise level, block and component whose features know most.

    Several processes share one scan: torchrun --nproc-per-node N -m aselect_edge.select BACKBONE --data DIR ...
    """
    from rich.console import Console

    from aselect_edge.device import find_device
    from aselect_edge.pictures import draw_selection
    from aselect_edge.records import Tap
    from aselect_edge.select import STRATEGIES, Measure, Request, Settings, select_tap
    from aselect_edge.select.strategies import DEFAULT
    from aselect_edge.select.team import assemble

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
    with assemble() as team, _progress(console, shown=team.leads) as tell:
        given = _Given(family, vae, heads, condition, revision)
        loaded = given.load(backbone, None if label < 0 else label, None, console.print)
        selection = select_tap(loaded, data, request, team=team, resume=out, report=tell, warn=console.print)
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


def _train(
    backbone: Annotated[str, typer.Option(help=_WHAT)],
    selection: Annotated[Path, typer.Option(help="What aselect-select wrote.")],
    data: Annotated[Path, typer.Option(help="A labelled folder, in one of the layouts of docs/data.md.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write; <out>.training is kept beside it.")],
    task: Annotated[str, typer.Option(help="seg or cls.")] = "seg",
    taps: Annotated[str, typer.Option(help="Replaces the selection's tap, for example 0.hidden,3.query.")] = "",
    imgsz: _Size = "",
    head: Annotated[
        str, typer.Option(help="seg: conv, edge or linear; cls: attention or linear. The first is meant.")
    ] = "",
    loss: Annotated[str, typer.Option(help="seg: dice or lovasz, beside the cross-entropy.")] = "dice",
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the backbone too.")] = False,
    unfreeze: Annotated[str, typer.Option(help="With --finetune: all, last:N blocks or lora:R (low rank).")] = "all",
    random_backbone: Annotated[bool, typer.Option("--random-backbone", help="Baseline: forget the weights.")] = False,
    noise_draws: Annotated[int, typer.Option(min=1, max=64, help="Mean over so many draws, a pass each.")] = 1,
    family: _Family = "",
    vae: _Vae = "",
    heads: _Heads = 0,
    condition: _Condition = "",
    label: Annotated[int, typer.Option(min=-1, help="Class to condition on; -1 is the selection's.")] = -1,
    revision: _Revision = "",
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
    device: _Device = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 is all.")] = 0,
    as_json: _Json = False,
    verbose: _Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Train a head on the selected features; interrupted runs go on where they stood."""
    import torch
    from rich.console import Console

    from aselect_edge.device import find_device
    from aselect_edge.records import Selection, Tap
    from aselect_edge.training import TrainRequest, Unfreeze, train_bundle

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
    console = Console(stderr=True, markup=False, soft_wrap=True)
    with _progress(console) as tell:
        given = _Given(family, vae, heads, condition, revision)
        loaded = given.load(backbone, chosen.label if label < 0 else label, request.depth, console.print)
        outcome = train_bundle(replace(request, source=loaded), tell, console.print)
    figures = outcome.figures
    if as_json:
        shares = {figures.metric: figures.score, **figures.others}
        print(json.dumps({"out": str(out), **{f"val_{name}": share for name, share in shares.items()}}))
    else:
        print(f"val {figures.metric} {figures.score:.3f}\n{out}\npictures: {request.workdir}")


def _head(task: str, kind: str) -> HeadSpec | None:
    """The head that was asked for; None for the task's own."""
    from aselect_edge.records import HEAD_KINDS, HeadSpec

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


@dataclass(frozen=True)
class _Given:
    """What was said about a backbone, as the options have it: empty or 0 is nothing."""

    family: str
    vae: str
    heads: int
    condition: str
    revision: str

    def load(self, source: str, label: int | None, depth: int | None, warn: Callable[[str], None]) -> LoadedBackbone:
        from aselect_edge.backbones import load_backbone
        from aselect_edge.backbones.prompt import load_condition

        return load_backbone(
            source,
            self.revision or None,
            warn,
            family=self.family or None,
            vae=self.vae or None,
            label=label,
            depth=depth,
            heads=self.heads or None,
            condition=load_condition(Path(self.condition)) if self.condition else None,
        )


@contextmanager
def _progress(console: Console, shown: bool = True) -> Iterator[Callable[[str, float], None]]:
    from rich.progress import Progress

    with Progress(console=console, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task("starting", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)


def _numbers(text: str) -> list[float] | None:
    try:
        numbers = [float(part) for part in text.split(",")] if text else None
    except ValueError:
        numbers = [math.nan]
    if numbers and not all(map(math.isfinite, numbers)):
        raise InputError(f"got the timesteps {text!r}, expected numbers such as 0,50,100; correct them")
    return numbers


select = entry(_select)
train = entry(_train)
