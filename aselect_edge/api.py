"""`select` and `train` as functions: the options of aselect-select and aselect-train, by the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.backbones.device import find_device
from aselect_edge.backbones.loading import load
from aselect_edge.bundle.discard import parse_channels
from aselect_edge.options import BackboneOptions, parse_components, parse_timesteps
from aselect_edge.selection import Measure, Request, Settings, select_tap
from aselect_edge.selection.choice import SearchHead
from aselect_edge.selection.feature_maps import feature_maps
from aselect_edge.selection.plots import draw_features, draw_selection
from aselect_edge.selection.strategies import default_strategy, refuse_unread, refuse_unscanned
from aselect_edge.team import assemble
from aselect_edge.training import RECIPES, CleanRecipe, Outcome, TrainRequest, Unfreeze, train_bundle
from aselect_edge.training.recipe import Overlap
from aselect_runtime.errors import InputError
from aselect_runtime.files import check_place
from aselect_runtime.options import MOST, choice, parse_size, refuse_unused, within
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import (
    HEAD_KINDS,
    MOST_DRAWS,
    CleanLevels,
    Component,
    HeadKind,
    HeadSpec,
    Selection,
    Tap,
    Task,
)


def select(
    backbone: str | Path | LoadedBackbone,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    strategy: str | None = None,
    task: Task = "seg",
    images: int | None = None,
    imgsz: str | tuple[int, int] | None = None,
    timestep: float | None = None,
    timesteps: str | Sequence[float] | None = None,
    components: str | Sequence[Component] | None = None,
    blocks: int | None = None,
    tap: str | Tap | None = None,
    dimensions: Literal[1, 2] = 2,
    amplitude: bool = False,
    cutoff: float = 0.15,
    dc: bool = False,
    confidence: float = 0.95,
    head: SearchHead = "linear",
    steps: int = 200,
    family: str | None = None,
    vae: str | None = None,
    num_heads: int | None = None,
    condition: str | Path | None = None,
    label: int | None = None,
    revision: str | None = None,
    sit_time: str | None = None,
    sit_path: str | None = None,
    batch: int = 8,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress = silent,
) -> Selection:
    """Find the noise level, block and component with the most informative features of `data`.

    `backbone` is a source as for `load_backbone` (a folder, a hub id, "shipped", …), or a loaded backbone, to which
    `family` to `sit_path` do not apply. `data` has `train/` and `val/`, or for strategies without labels is a folder of
    images or a video; `smallest-sigma`, `fixed` and `uniform` need none, nor do a given `timestep` and `tap`, which are
    used without a scan. Without a strategy it is `probe` if `data` has labels of the task, else `smallest-sigma`.
    `imgsz` is "HxW" or (height, width) in pixels. None leaves a value to the strategy or backbone.

    With `out` (.json) the record is written there and next to it the plot of the scores (.png) and, for a scan, the
    features of the chosen and the lowest scored candidate on one image (.features.png); an interrupted scan resumes.
    Processes that torchrun started share the scan; all return the selection, the first one writes it.
    Raises InputError for invalid requests, IntegrityError for a corrupt backbone.
    """
    place = None if out is None else Path(out)
    if place is not None and place.suffix != ".json":
        raise InputError(
            f"got out={str(out)!r}, expected a name that ends in .json; the plot is written next to it as .png"
        )
    if place is not None:
        check_place(place)  # before an hour of work
    if timestep is not None and timesteps is not None:
        raise InputError("got timestep and timesteps, expected only one of them; leave one out", parameter="timesteps")
    _check_numbers(batch=(batch, 1), images=(images, 0), blocks=(blocks, 0), seed=(seed, 0), steps=(steps, 1))
    within(dimensions, 1, 2, "dimensions")
    wanted = None if components is None else parse_components(components)
    levels = timesteps if timestep is None else [timestep]
    folder = None if data is None else Path(data)
    only = Tap.parse(tap) if isinstance(tap, str) else tap
    choice(task, tuple(HEAD_KINDS), "task")
    name = strategy or ("fixed" if timestep is not None else default_strategy(folder, task, only))
    settings = Settings(Measure(dimensions, not amplitude, cutoff, dc), only, confidence, head=head, steps=steps)
    given = {"dimensions": dimensions, "amplitude": amplitude, "cutoff": cutoff, "dc": dc, "confidence": confidence}
    refuse_unread(name, {**given, "head": head, "steps": steps, "tap": only})
    refuse_unscanned(name, only, {"components": wanted, "blocks": blocks}, folder, {"images": images, "batch": batch})
    choice(head, get_args(SearchHead), "head")
    request = Request(
        strategy=name,
        task=task,
        images=images,
        imgsz=None if imgsz is None else parse_size(imgsz),
        timesteps=None if levels is None else parse_timesteps(levels),
        components=wanted,
        blocks=blocks,
        batch=batch,
        seed=seed,
        device=find_device(device),  # refused here, not after a backbone of gigabytes is read
        settings=settings,
    )
    options = _options(locals())
    with assemble() as team:
        loaded = _load(backbone, options)
        selection = select_tap(loaded, folder, request, team=team, resume=place, progress=progress)
    if place is not None and team.leads:
        selection.save(place)
        draw_selection(selection, place.with_suffix(".png"))
        if selection.scores and folder is not None:
            frame, maps = feature_maps(loaded, folder, request, selection)
            draw_features(frame, [(each.title, each.colours) for each in maps], place.with_suffix(".features.png"))
    return selection


def train(
    backbone: str | Path | LoadedBackbone,
    selection: str | Path | Selection,
    data: str | Path,
    out: str | Path,
    *,
    task: Task = "seg",
    taps: str | Sequence[str | Tap] = (),
    imgsz: str | tuple[int, int] | None = None,
    head: HeadKind | None = None,
    loss: Literal["dice", "lovasz"] = "dice",
    finetune: bool = False,
    unfreeze: str | None = None,
    random_backbone: bool = False,
    noise_draws: int = 1,
    family: str | None = None,
    vae: str | None = None,
    num_heads: int | None = None,
    condition: str | Path | None = None,
    label: int | None = None,
    revision: str | None = None,
    sit_time: str | None = None,
    sit_path: str | None = None,
    samples: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    backbone_lr: float | None = None,
    patience: int = 0,
    discard_channels: str | Sequence[int] = (),
    clean: bool = False,
    clean_levels: CleanLevels | None = None,
    clean_samples: int | None = None,
    clean_lr: float | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> Outcome:
    """Train a head on the selected features of a labelled folder and write the bundle folder `out`.

    `backbone` is a source as for `load_backbone`, or a loaded backbone, to which `family` to `sit_path` do not apply;
    `selection` is the record or its file; `taps`, such as "0.hidden,3.query", replace its tap. `finetune` also trains
    the part of the backbone given by `unfreeze`: "all" (the default), "last:N" blocks or "lora:R". `imgsz` is "HxW" or
    (height, width) in pixels. None leaves a value to the task, see `RECIPES`, or to the selection. `discard_channels`
    of every tap are set to zero before the head: "auto" the massive ones, "none", or a list such as "12,85".

    With `clean`, a copy of the backbone first learns, from `clean_samples` images at the learning rate `clean_lr`, to
    give the features of the `selected` noise level (the default), or of `sampled` ones, from images without noise.

    Checkpoint, curves and plots go to `<out>.training`; an interrupted run resumes from there. Processes that torchrun
    started share the run; they must see the same files, which the first one writes. Raises InputError for invalid
    requests, before anything is trained, and PeerError if another process ends.
    """
    choice(task, tuple(HEAD_KINDS), "task")
    if clean_levels is not None:
        choice(clean_levels, get_args(CleanLevels), "clean_levels")
    for name, value, of, has in (
        ("unfreeze", unfreeze, "finetune", finetune),
        ("backbone_lr", backbone_lr, "finetune", finetune),
        ("clean_levels", clean_levels, "clean", clean),
        ("clean_samples", clean_samples, "clean", clean),
        ("clean_lr", clean_lr, "clean", clean),
    ):
        if value is not None and not has:
            raise InputError(f"got {name}={value!r} without {of}, expected both; add {of}=True")
    choice(loss, get_args(Overlap), "loss")
    if finetune:
        refuse_unused({"cache": cache}, "fine-tuning", "a frozen backbone", by=("finetune",))
    if task == "cls" and loss != "dice":
        refuse_unused({"loss": loss}, "classification", "segmentation", by=("task",))
    if head is not None:
        choice(head, get_args(HeadKind), "head")
    _check_numbers(samples=(samples, 0), batch=(batch, 0), patience=(patience, 0), seed=(seed, 0))
    _check_numbers(clean_samples=(clean_samples, 0))
    within(noise_draws, 1, MOST_DRAWS, "noise_draws")
    for rate, speed in (("lr", lr), ("backbone_lr", backbone_lr), ("clean_lr", clean_lr)):
        within(speed, 0, 1, rate, whole=False)
    chosen = selection if isinstance(selection, Selection) else Selection.load(Path(selection))
    parts = [part for part in taps.split(",") if part] if isinstance(taps, str) else taps
    own = RECIPES[task]
    request = TrainRequest(
        task=task,
        source=str(backbone),
        selection=chosen,
        data=Path(data),
        out=Path(out),
        taps=tuple(Tap.parse(part) if isinstance(part, str) else part for part in parts),
        imgsz=None if imgsz is None else parse_size(imgsz),
        head=None if head is None else HeadSpec(kind=head, channels=128),
        recipe=replace(
            own,
            samples=samples or own.samples,
            batch=batch or min(own.batch, samples or own.batch),
            learning_rate=lr or own.learning_rate,
            backbone_rate=backbone_lr or own.backbone_rate,
            patience=patience,
            seed=seed,
            overlap=loss,
        ),
        unfreeze=Unfreeze.parse(unfreeze or "all") if finetune else None,
        random_backbone=random_backbone,
        noise_draws=noise_draws,
        discard=parse_channels(discard_channels) if isinstance(discard_channels, str) else tuple(discard_channels),
        clean=_clean(clean_levels, clean_samples, clean_lr, seed) if clean else None,
        cache=None if cache is None else Path(cache),
        device=find_device(device),
    )
    if isinstance(backbone, str | Path):
        label = chosen.label if label is None else label
    options = _options(locals())
    with assemble() as team:
        loaded = _load(backbone, options, request.depth)
        return train_bundle(replace(request, source=loaded), progress, team)


def _check_numbers(**given: tuple[int | None, int]) -> None:
    """Raise InputError for an option (value, least) that is not a whole number from the least on."""
    for name, (value, least) in given.items():
        within(value, least, MOST, name)


def _clean(levels: CleanLevels | None, samples: int | None, rate: float | None, seed: int) -> CleanRecipe:
    own = CleanRecipe(levels=levels or "selected", seed=seed)
    return replace(own, samples=samples or own.samples, rate=rate or own.rate)


def _options(given: Mapping[str, Any]) -> BackboneOptions:
    """The options of the backbone among the arguments of a function, which lists them for its users."""
    return BackboneOptions(**{option.name: given[option.name] for option in fields(BackboneOptions)})


def _load(backbone: str | Path | LoadedBackbone, options: BackboneOptions, depth: int | None = None) -> LoadedBackbone:
    if not isinstance(backbone, LoadedBackbone):
        return load(str(backbone), options, depth)
    refuse_unused(options.given(), "a loaded backbone", "a source that is loaded here")
    return backbone
