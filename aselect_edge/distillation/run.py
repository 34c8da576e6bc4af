"""From a bundle and images without labels to a bundle with a distilled encoder: what `aselect-distil` does."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from aselect_edge.backbones.device import find_device
from aselect_edge.backbones.digest import tensors_digest
from aselect_edge.backbones.family import Pixels
from aselect_edge.bundle import LoadedBundle, TapModel, load_bundle, save_distilled
from aselect_edge.bundle.distilled import distilled_state, token_shape
from aselect_edge.bundle.folder import KIND
from aselect_edge.bundle.tiny import replaced
from aselect_edge.data import is_labelled, open_data
from aselect_edge.distillation.head import train_head
from aselect_edge.distillation.learner import StemLearner
from aselect_edge.distillation.views import UnlabelledViews, open_views
from aselect_edge.evaluation.plots import draw_curve
from aselect_edge.training.alone import alone_in
from aselect_edge.training.checkpoint import RunState, working_folder
from aselect_edge.training.identity import features_digest
from aselect_edge.training.loop import learn
from aselect_edge.training.recipe import Recipe
from aselect_runtime.options import MOST, within
from aselect_runtime.output_folder import check_replaceable
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Bundle, Distilled, EncoderCost, StemSpec

log = logging.getLogger(__name__)

RECIPE = Recipe(samples=16_000, batch=16, learning_rate=2e-3, weight_decay=0.01)
"""Where `distil` starts from."""
LATENT, PIXEL = (256, 4), (64, 1)
"""Width and blocks of the stem of a model with an autoencoder, and of one on pixels, whose patch embedding is cheap."""

LIMITS = {"images": (1, MOST), "width": (8, 4096), "blocks": (0, 64)}
"""Lowest and highest value of a number that may not be any from 0 on."""


@dataclass(frozen=True)
class Distillation:
    """A bundle with a distilled encoder that was written."""

    folder: Path
    record: Distilled
    curve: tuple[tuple[int, float, float], ...]
    """(samples seen, mean divergence of the answers, variance of the held-out images' features that is explained)."""


def distil(
    bundle: str | Path | LoadedBundle,
    data: str | Path,
    out: str | Path,
    *,
    images: int = 4096,
    width: int | None = None,
    blocks: int | None = None,
    samples: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    patience: int = 0,
    cache: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> Distillation:
    """Distil the encoder of a bundle and write the bundle folder `out`, which holds the stem beside all that was there.

    `data` is a folder of images or a video, of which at most `images` are looked at, without labels; where it is a
    split root with labels of the bundle's classes, the head is trained on these afterwards. `width` and `blocks` are
    the stem's, see `StemSpec`. `out` may be the bundle itself. Checkpoint and curve go to `<out>.training`; an
    interrupted run goes on from there. Raises InputError for what cannot be done, before anything is trained.
    """
    place, source = Path(out), Path(data)
    wholes = {"images": images, "width": width, "blocks": blocks, "samples": samples, "batch": batch}
    for name, value in {**wholes, "patience": patience, "seed": seed}.items():
        within(value, *LIMITS.get(name, (0, MOST)), name)
    within(lr, 0, 1, "lr", whole=False)
    check_replaceable(place, KIND)
    on = find_device(device)
    loaded = bundle if isinstance(bundle, LoadedBundle) else load_bundle(Path(bundle))
    recipe = replace(
        RECIPE,
        samples=samples or RECIPE.samples,
        batch=batch or min(RECIPE.batch, samples or RECIPE.batch),
        learning_rate=lr or RECIPE.learning_rate,
        patience=patience,
        seed=seed,
    )
    record, full = loaded.record, loaded.reference()
    spec = _spec(full, width, blocks)
    views = open_views(source, images, record.imgsz, record.resize, recipe, record.task)
    workdir = working_folder(place)
    with alone_in(workdir):
        torch.manual_seed(seed)
        features = workdir / "features" if cache is None else Path(cache)
        learner = StemLearner(full, record.task, spec, views, recipe, features, progress, on)
        state = _train_stem(learner, recipe, _identity(full, spec, views, recipe), workdir, progress)
        labelled = _has_labels(source, record)
        if labelled:
            train_head(full, learner, record, source, recipe, workdir / "labels", progress)
        found = Distilled(
            stem=spec,
            replaces=replaced(full.encoder),
            data=views[0].images.fingerprint,
            **asdict(learner.validate(learner.module)),
            samples=state.step * recipe.batch,
            labelled=labelled,
            full=learner.full_cost,
            cost=learner.cost,
        )
        save_distilled(place, loaded, found, distilled_state(*learner.parts()))
    return Distillation(place, found, tuple(row[:3] for row in state.curve))


def _train_stem(learner: StemLearner, recipe: Recipe, identity: str, workdir: Path, progress: Progress) -> RunState:
    """Train the stem, leave the learner with the best weights, and draw the curve."""
    _warn_of_cost(learner.cost, learner.full_cost)
    state = learn(learner, recipe, identity, workdir, progress)
    learner.module.load_state_dict(state.best_weights)
    titles = ("divergence of the answers", "explained variance of the features")
    draw_curve(state.curve, titles, workdir / "curve.png")
    return state


def _spec(full: TapModel, width: int | None, blocks: int | None) -> StemSpec:
    own = PIXEL if isinstance(full.encoder, Pixels) else LATENT
    stride, outputs = token_shape(full)
    return StemSpec(
        stride=stride,
        outputs=outputs,
        width=own[0] if width is None else width,
        blocks=own[1] if blocks is None else blocks,
    )


def _identity(full: TapModel, spec: StemSpec, views: tuple[UnlabelledViews, UnlabelledViews], recipe: Recipe) -> str:
    """What is distilled, of what and how, as JSON; not on which device, so that a run may go on on another."""
    content = {
        "recipe": asdict(recipe),
        "stem": spec.model_dump(),
        "features": features_digest(full),
        "head": tensors_digest(full.head.state_dict().items()),
        "views": [each.describe() for each in views],
    }
    return json.dumps(content)


def _warn_of_cost(ours: EncoderCost, theirs: EncoderCost) -> None:
    """A stem for a model on pixels may cost more than its patch embedding, which is one convolution."""
    if ours.macs >= theirs.macs:
        log.warning(
            "the stem takes %.1f M multiply-accumulates a frame, what it replaces %.1f M; make it narrower",
            ours.macs / 1e6,
            theirs.macs / 1e6,
        )


def _has_labels(data: Path, record: Bundle) -> bool:
    """Whether there are labels of the bundle's classes; folders of cameras or days look like classes, too."""
    if data.is_file() or not is_labelled(data, "train", record.task):
        return False
    opened = open_data(data, "train", record.task)
    return [info.name for info in opened.classes] == [info.name for info in record.classes]
