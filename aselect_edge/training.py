"""From a backbone, a selection and a labelled folder to a bundle: what `aselect-train` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.dit import DiT
from aselect_edge.bundle import RECORD, save_bundle
from aselect_edge.data import open_segmentation
from aselect_edge.errors import InputError
from aselect_edge.files import check_replaceable
from aselect_edge.heads import build_head
from aselect_edge.perception import Perception
from aselect_edge.pictures import draw_curve
from aselect_edge.pretrain import initialise
from aselect_edge.records import BackboneSource, Bundle, HeadSpec, Resize, Selection, Tap, Task
from aselect_edge.train import Outcome, Recipe, Report, train_segmentation


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
    report: Report = lambda _what, _share: None,
) -> Outcome:
    """Train a head (and with `finetune` the backbone) and write the bundle to `out`.

    Reads `data/train` and `data/val`; checkpoints and the learning curve go to `<out>.training`. `taps` replace
    the selection's tap. `random_backbone` keeps the architecture and forgets the weights: the baseline that says
    what pretraining buys.
    """
    if task != "seg":
        raise InputError("got --task cls, expected seg; classification is trained in a later version")
    check_replaceable(out, RECORD)  # now rather than after hours of training
    recipe, head = recipe or Recipe(), head or HeadSpec(kind="conv", channels=128)
    train, val = open_segmentation(data, "train"), open_segmentation(data, "val")
    if val.classes != train.classes:
        raise InputError(f"{data}: train and val have different classes, expected the same; correct classes.json")
    backbone = load_backbone(source)
    model = _randomised(backbone.model, recipe.seed) if random_backbone else backbone.model
    where, how = tuple(taps) or (selection.tap,), Resize()
    side = model.config.sample_size
    size = imgsz or (side, side)
    torch.manual_seed(recipe.seed)
    body = build_head(head, task, [model.config.width] * len(where), len(train.classes))
    perception = Perception(model, body, selection.noise, where, size, noise_seed=selection.seed)
    workdir = out.with_name(out.name + ".training")
    schedule = backbone.schedule
    outcome = train_segmentation(perception, train, val, how, recipe, workdir, schedule, finetune, report)
    draw_curve(outcome.curve, ("samples", "loss", "val mIoU"), workdir / "curve.png")
    own_weights = finetune or random_backbone
    record = Bundle(
        task=task,
        classes=train.classes,
        imgsz=size,
        resize=how,
        backbone=BackboneSource(
            family="dit",
            config=model.config.to_json(),
            # A frozen bundle is opened from anywhere, so a folder is kept as an absolute path.
            source=str(Path(source).resolve()) if Path(source).is_dir() else source,
            file="backbone.safetensors" if own_weights else None,
        ),
        taps=where,
        noise=selection.noise,
        noise_seed=selection.seed,
        head=head,
        finetuned=finetune,
        metrics={"val_miou": outcome.val_miou},
    )
    save_bundle(out, record, selection, outcome.model)
    return outcome


def _randomised(model: DiT, seed: int) -> DiT:
    torch.manual_seed(seed)
    fresh = DiT(model.config, tied=True)
    initialise(fresh)
    return fresh.eval()
