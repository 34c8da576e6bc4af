"""From a backbone, a selection and a labelled folder to a bundle: the function behind `aselect-train`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from pydantic import ValidationError

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.digest import backbone_digest, encoder_digest, weights_digest
from aselect_edge.backbones.dit import DiT, initialise
from aselect_edge.backbones.family import Pixels
from aselect_edge.backbones.prompt import CONDITION
from aselect_edge.bundle import save_bundle, tap_model
from aselect_edge.bundle.folder import KIND
from aselect_edge.bundle.model import TapModel
from aselect_edge.data.repeats import told_twice
from aselect_edge.heads import build_head, taps_for
from aselect_edge.team import ALONE, Team
from aselect_edge.training.alone import alone_in
from aselect_edge.training.clean import LEVELS, clean_backbone, without_noise
from aselect_edge.training.comparison import compare, told
from aselect_edge.training.discard import discarded_channels
from aselect_edge.training.finetune import Noising, noising_of
from aselect_edge.training.goal import Goal, open_goal
from aselect_edge.training.loop import train_model
from aselect_edge.training.recipe import HEADS, RECIPES, Outcome
from aselect_edge.training.report import draw_report
from aselect_edge.training.request import TrainRequest
from aselect_runtime.errors import InputError
from aselect_runtime.output_folder import check_replaceable
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import BackboneSource, Bundle, ClassInfo, HeadSpec, Resize, Selection, Tap

log = logging.getLogger(__name__)


def train_bundle(request: TrainRequest, progress: Progress = silent, team: Team = ALONE) -> Outcome:
    """Train as requested and write the bundle to `request.out`.

    Reads the splits `train` and `val` of the data; checkpoint, curves, images and, if not elsewhere, cached
    features go to `request.workdir`. The processes of a `team` call this together, and the first one writes. Raises
    InputError for invalid requests, before anything is trained.
    """
    request.selection.check_deployable()
    check_replaceable(request.out, KIND)  # checked before hours of training
    recipe, head = request.recipe or RECIPES[request.task], request.head or HEADS[request.task]
    goal = open_goal(request.task, request.data, recipe)
    for line in told_twice(goal.train, {"val": goal.val}):
        log.warning("%s: %s", request.data, line)
    taps = taps_for(head, request.taps or (request.selection.tap,))
    backbone = _backbone(request, recipe.seed)
    record = bundle_record(request, backbone, goal.train.classes, taps, head)
    model = fresh_model(backbone, record, recipe.seed)
    if request.discard:
        discarded = discarded_channels(model, request.discard, goal, record.resize)
        record = record.model_copy(update={"discarded": discarded})
        model = fresh_model(backbone, record, recipe.seed)
    with alone_in(request.workdir) if team.leads else nullcontext():
        return _trained(request, model, backbone, record, goal, progress, team)


def _trained(
    request: TrainRequest,
    model: TapModel,
    backbone: LoadedBackbone,
    record: Bundle,
    goal: Goal,
    progress: Progress,
    team: Team,
) -> Outcome:
    """Train the model of a record, and write the bundle and the report."""
    recipe = request.recipe or RECIPES[request.task]
    if request.clean is not None:
        backbone, record = _cleaned_by_one(request, model, backbone, record, goal, progress, team)
        model = fresh_model(backbone, record, recipe.seed)
    reference = compare(request.task, goal, record.imgsz, record.resize, progress) if team.leads else None
    if reference:
        log.info("%s", told(reference))
    outcome = train_model(
        model,
        goal,
        record.resize,
        recipe,
        request.workdir,
        cache=request.cache,
        unfreeze=request.unfreeze,
        noising=_noising(request, backbone),
        progress=progress,
        device=request.device,
        schedule=backbone.schedule.config,
        team=team,
    )
    if not team.leads:
        return outcome
    outcome = replace(outcome, reference=reference)
    figures = outcome.figures
    metrics = {f"val_{figures.metric}": figures.score, "samples": float(outcome.curve[-1][0])}
    save_bundle(request.out, record.model_copy(update={"metrics": metrics}), request.selection, outcome.model)
    draw_report(outcome, goal, record.resize, request.workdir)
    return outcome


def _cleaned_by_one(
    request: TrainRequest,
    model: TapModel,
    backbone: LoadedBackbone,
    record: Bundle,
    goal: Goal,
    progress: Progress,
    team: Team,
) -> tuple[LoadedBackbone, Bundle]:
    """As `cleaned`: the first process of a team trains the copy, then the others read its finished checkpoint."""
    if team.leads:
        found = cleaned(request, model, backbone, record, goal, progress)
        team.told()
        return found
    team.told()
    return cleaned(request, model, backbone, record, goal, silent)


def cleaned(
    request: TrainRequest,
    model: TapModel,
    backbone: LoadedBackbone,
    record: Bundle,
    goal: Goal,
    progress: Progress = silent,
) -> tuple[LoadedBackbone, Bundle]:
    """The backbone after it has learned to need no noise, and the record of a bundle with it."""
    assert request.clean is not None
    schedule = backbone.schedule
    sampled = request.clean.levels == "sampled"
    levels = schedule.levels(schedule.candidates(LEVELS)) if sampled else (record.noise,)
    copy, found = clean_backbone(
        model, goal, record.resize, request.clean, levels, request.workdir / "clean", progress, request.device
    )
    noise = without_noise(record.noise)
    return replace(backbone, model=copy), record.model_copy(update={"noise": noise, "noise_seed": None, "clean": found})


def _backbone(request: TrainRequest, seed: int) -> LoadedBackbone:
    """The backbone, loaded if only its name is given, with the weights that the request specifies."""
    backbone, selection = request.source, request.selection
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, label=selection.label, depth=request.depth)
    check_selection(selection, backbone)
    return randomised(backbone, seed) if request.random_backbone else backbone


def check_selection(selection: Selection, backbone: LoadedBackbone) -> None:
    """Warn of a selection whose noise is of another path, or that was made on a backbone with other contents."""
    noise, lacks = selection.noise, backbone.schedule.lacks(selection.noise)
    if lacks is not None:
        level = f"alpha {noise.alpha:g}, sigma {noise.sigma:g}, timestep {noise.model_timestep:g}"
        log.warning("the selection's noise is %s, but this backbone has %s; select again on it", level, lacks)
    made, here, depth = selection.backbone, backbone.source, 1 + selection.tap.block
    if selection.backbone_sha256 is None or backbone.model.depth < depth:  # the digest cannot be computed
        if made != here:
            log.warning("the selection was made on %s, not on %s; its tap may not be the best", made, here)
    elif backbone_digest(backbone.model, backbone.encoder, depth=depth) != selection.backbone_sha256:
        other = f"on {made}, not on {here}" if made != here else f"on an earlier version of {made}"
        log.warning("the selection was made %s; its tap may not be the best, select again", other)


def fresh_model(backbone: LoadedBackbone, record: Bundle, seed: int) -> TapModel:
    """The record's model, its head with fresh weights of the seed."""
    torch.manual_seed(seed)
    widths = [backbone.model.width] * len(record.taps)
    return tap_model(backbone, build_head(record.head, record.task, widths, len(record.classes)), record)


def _noising(request: TrainRequest, backbone: LoadedBackbone) -> Noising | None:
    """The noising for the denoising loss; None for a frozen backbone or one that cannot denoise here."""
    if request.unfreeze is None:
        return None
    noising = noising_of(backbone.model, backbone.schedule.config, request.device)
    if noising is None:
        family = backbone.model.family
        log.warning("%s is read without its output layer, so it is fine-tuned only with the task's loss", family)
    return noising


def bundle_record(
    request: TrainRequest, backbone: LoadedBackbone, classes: tuple[ClassInfo, ...], taps: Sequence[Tap], head: HeadSpec
) -> Bundle:
    """The bundle's record, made before training so that invalid values are refused early."""
    side = backbone.side
    try:
        return Bundle(
            task=request.task,
            classes=classes,
            imgsz=request.imgsz or (side, side),
            resize=Resize(),
            backbone=_source(backbone, request, 1 + max(tap.block for tap in taps)),
            taps=tuple(taps),
            noise=request.selection.noise,
            noise_seed=request.selection.seed,
            noise_draws=request.noise_draws,
            head=head,
            finetuned=request.unfreeze is not None,
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(f"{fault['loc'][0]}: {fault['msg']}; got {fault['input']!r}, change the option") from error


def _source(backbone: LoadedBackbone, request: TrainRequest, depth: int) -> BackboneSource:
    own_weights = request.unfreeze is not None or request.random_backbone or request.clean is not None
    return BackboneSource(
        family=backbone.model.family,  # type: ignore[arg-type]
        config=backbone.model.to_json(),
        source=backbone.source,
        revision=backbone.revision,
        file="backbone.safetensors" if own_weights else None,
        vae=backbone.vae,
        schedule=backbone.schedule.config,
        label=backbone.label,
        condition=CONDITION,
        weights_sha256=None if own_weights else weights_digest(backbone.model, depth),
        vae_sha256=None if isinstance(backbone.encoder, Pixels) else encoder_digest(backbone.encoder),
    )


def randomised(backbone: LoadedBackbone, seed: int) -> LoadedBackbone:
    """The backbone with random weights of the seed; raises InputError for a family without initialisation here."""
    if not isinstance(backbone.model, DiT):
        raise InputError(
            f"got random weights for the family {backbone.model.family}, expected dit; leave the option out",
            parameter="random_backbone",
        )
    torch.manual_seed(seed)
    fresh = type(backbone.model)(backbone.model.config, tied=True)
    initialise(fresh)
    return replace(backbone, model=fresh.eval())
