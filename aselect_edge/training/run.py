"""From a backbone, a selection and a labelled folder to a bundle: what `aselect-train` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.dit import DiT, initialise
from aselect_edge.backbones.family import Pixels
from aselect_edge.backbones.prompt import CONDITION
from aselect_edge.bundle import RECORD, perception, save_bundle
from aselect_edge.data import SegmentationData, open_segmentation
from aselect_edge.errors import InputError
from aselect_edge.files import check_replaceable
from aselect_edge.heads import build_head
from aselect_edge.pictures import draw_curve
from aselect_edge.records import BackboneSource, Bundle, HeadSpec, Resize, Selection, Tap, Task
from aselect_edge.training.loop import train_segmentation
from aselect_edge.training.recipe import Outcome, Recipe, TellProgress


def train_bundle(
    task: Task,
    source: str | LoadedBackbone,
    selection: Selection,
    data: Path,
    out: Path,
    taps: Sequence[Tap] = (),
    imgsz: tuple[int, int] | None = None,
    head: HeadSpec | None = None,
    finetune: bool = False,
    random_backbone: bool = False,
    noise_draws: int = 1,
    recipe: Recipe | None = None,
    tell: TellProgress = lambda _what, _share: None,
    warn: Callable[[str], None] = lambda _line: None,
) -> Outcome:
    """Train a head (and with `finetune` the backbone) and write the bundle to `out`.

    Reads `data/train` and `data/val`; checkpoints and the learning curve go to `<out>.training`. `taps` replace
    the selection's tap. A `source` by name is conditioned on the selection's class. `noise_draws` averages the
    features over so many draws of the noise, at as many forward passes. `random_backbone` keeps the architecture and
    forgets the weights: the baseline that says what pretraining buys.
    """
    if task != "seg":
        raise InputError("got --task cls, expected seg; classification is trained in a later version")
    selection.check_deployable()
    check_replaceable(out, RECORD)  # now rather than after hours of training
    recipe = recipe or Recipe()
    train, val = open_segmentation(data, "train"), open_segmentation(data, "val")
    chosen = tuple(taps) or (selection.tap,)
    if isinstance(source, str):
        # Fine-tuning keeps the whole model a denoiser; frozen features need no block beyond the taps.
        depth = None if finetune or random_backbone else 1 + max(tap.block for tap in chosen)
        source = load_backbone(source, warn=warn, label=selection.label, depth=depth)
    backbone = source
    if selection.backbone != backbone.source:
        warn(f"the selection was made on {selection.backbone}, not on {backbone.source}; its tap may not be the best")
    if random_backbone:
        backbone = _randomised(backbone, recipe.seed)
    own_weights = finetune or random_backbone
    record = _record(backbone, train, selection, chosen, imgsz, head, finetune, own_weights, noise_draws)
    if finetune and not (isinstance(backbone.model, DiT) and backbone.model.channels == Pixels.channels):
        raise InputError(
            f"got --finetune with {backbone.model.family} on {backbone.model.channels} channels, expected a DiT on "
            "pixels, whose denoising loss keeps it a DiT; train without --finetune"
        )
    torch.manual_seed(recipe.seed)
    body = build_head(record.head, task, [backbone.model.width] * len(record.taps), len(train.classes))
    model = perception(backbone, body, record)
    workdir = out.with_name(out.name + ".training")
    outcome = train_segmentation(
        model, train, val, record.resize, recipe, workdir, backbone.schedule.config, finetune, tell
    )
    draw_curve(outcome.curve, ("samples", "loss", "val mIoU"), workdir / "curve.png")
    metrics = {"val_miou": outcome.val_miou, "samples": float(recipe.samples)}
    save_bundle(out, record.model_copy(update={"metrics": metrics}), selection, outcome.model)
    return outcome


def _record(
    backbone: LoadedBackbone,
    train: SegmentationData,
    selection: Selection,
    taps: tuple[Tap, ...],
    imgsz: tuple[int, int] | None,
    head: HeadSpec | None,
    finetune: bool,
    own_weights: bool,
    noise_draws: int,
) -> Bundle:
    """The bundle's record, made before training so that what it refuses is refused early."""
    side = backbone.side
    try:
        return Bundle(
            task="seg",
            classes=train.classes,
            imgsz=imgsz or (side, side),
            resize=Resize(),
            backbone=BackboneSource(
                family=backbone.model.family,  # type: ignore[arg-type]
                config=backbone.model.to_json(),
                source=backbone.source,
                revision=backbone.revision,
                file="backbone.safetensors" if own_weights else None,
                vae=backbone.vae,
                schedule=backbone.schedule.config,
                label=backbone.label,
                condition=CONDITION,
            ),
            taps=taps,
            noise=selection.noise,
            noise_seed=selection.seed,
            noise_draws=noise_draws,
            head=head or HeadSpec(kind="conv", channels=128),
            finetuned=finetune,
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(f"{fault['loc'][0]}: {fault['msg']}; got {fault['input']!r}, change the option") from error


def _randomised(backbone: LoadedBackbone, seed: int) -> LoadedBackbone:
    if not isinstance(backbone.model, DiT):
        raise InputError(f"got --random-backbone with {backbone.model.family}, expected a dit; leave it out")
    torch.manual_seed(seed)
    fresh = type(backbone.model)(backbone.model.config, tied=True)
    initialise(fresh)
    return replace(backbone, model=fresh.eval())
