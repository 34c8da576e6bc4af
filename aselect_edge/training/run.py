"""From a backbone, a selection and a labelled folder to a bundle: what `aselect-train` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.dit import DiT, initialise
from aselect_edge.bundle import RECORD, save_bundle
from aselect_edge.data import SegmentationData, open_segmentation
from aselect_edge.errors import InputError
from aselect_edge.files import check_replaceable
from aselect_edge.heads import build_head
from aselect_edge.perception import Perception
from aselect_edge.pictures import draw_curve
from aselect_edge.records import BackboneSource, Bundle, HeadSpec, Resize, Selection, Tap, Task
from aselect_edge.training.loop import train_segmentation
from aselect_edge.training.recipe import Outcome, Recipe, TellProgress


def train_bundle(
    task: Task,
    source: str,
    selection: Selection,
    data: Path,
    out: Path,
    taps: Sequence[Tap] = (),
    imgsz: tuple[int, int] | None = None,
    head: HeadSpec | None = None,
    finetune: bool = False,
    random_backbone: bool = False,
    recipe: Recipe | None = None,
    tell: TellProgress = lambda _what, _share: None,
    warn: Callable[[str], None] = lambda _line: None,
) -> Outcome:
    """Train a head (and with `finetune` the backbone) and write the bundle to `out`.

    Reads `data/train` and `data/val`; checkpoints and the learning curve go to `<out>.training`. `taps` replace
    the selection's tap. `random_backbone` keeps the architecture and forgets the weights: the baseline that says
    what pretraining buys.
    """
    if task != "seg":
        raise InputError("got --task cls, expected seg; classification is trained in a later version")
    check_replaceable(out, RECORD)  # now rather than after hours of training
    recipe = recipe or Recipe()
    train, val = open_segmentation(data, "train"), open_segmentation(data, "val")
    backbone = load_backbone(source, warn=warn)
    if selection.backbone != backbone.source:
        warn(f"the selection was made on {selection.backbone}, not on {backbone.source}; its tap may not be the best")
    if random_backbone:
        backbone = _randomised(backbone, recipe.seed)
    own_weights = finetune or random_backbone
    record = _record(backbone, train, selection, tuple(taps) or (selection.tap,), imgsz, head, finetune, own_weights)
    torch.manual_seed(recipe.seed)
    body = build_head(record.head, task, [backbone.model.width] * len(record.taps), len(train.classes))
    perception = Perception(
        backbone.model,
        body,
        record.noise,
        record.taps,
        record.imgsz,
        record.noise_seed,
        backbone.encoder,
        backbone.condition,
    )
    workdir = out.with_name(out.name + ".training")
    outcome = train_segmentation(
        perception, train, val, record.resize, recipe, workdir, backbone.schedule.config, finetune, tell
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
                family="dit",
                config=backbone.model.to_json(),
                source=backbone.source,
                file="backbone.safetensors" if own_weights else None,
            ),
            taps=taps,
            noise=selection.noise,
            noise_seed=selection.seed,
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
    fresh = DiT(backbone.model.config, tied=True)
    initialise(fresh)
    return replace(backbone, model=fresh.eval())
