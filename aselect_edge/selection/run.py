"""From a folder to `selection.json`: the function behind `aselect-select`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.device import CPU
from aselect_edge.backbones.digest import backbone_digest
from aselect_edge.selection.by_fixed import TIMESTEPS
from aselect_edge.selection.choice import Choice, Settings
from aselect_edge.selection.evidence import NO_IMAGES, NO_LABEL, Evidence, open_images, open_labelled
from aselect_edge.selection.massive import massive_taps
from aselect_edge.selection.resume import Store, scan_key
from aselect_edge.selection.scan import Scan, candidate_taps
from aselect_edge.selection.strategies import DEFAULT, STRATEGIES
from aselect_edge.team import Team
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Component, Cost, Selection, Task


@dataclass(frozen=True)
class Request:
    """What to scan; None leaves a value to the strategy or the backbone."""

    strategy: str = DEFAULT
    task: Task = "seg"
    images: int | None = None
    imgsz: tuple[int, int] | None = None
    timesteps: Sequence[float] | None = None
    components: Sequence[Component] | None = None
    blocks: int | None = None
    batch: int = 8
    seed: int = 0
    device: torch.device = CPU
    settings: Settings = field(default_factory=Settings)


def select_tap(
    source: str | LoadedBackbone,
    data: Path | None = None,
    request: Request | None = None,
    *,
    team: Team | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
) -> Selection:
    """Scan a backbone on images of `data` and choose as requested.

    `data` is a split root (its `train` is used, and `val` to score what was fitted to labels) or, without labels, any
    folder of images or a video; None for a strategy that needs none. With `resume`, an interrupted scan with the
    same inputs resumes from that file, which is removed at the end. All processes of a team get the same result.
    """
    request, team = request or Request(), team or Team()
    choice(request.strategy, tuple(STRATEGIES), "strategy")
    backbone = load_backbone(source) if isinstance(source, str) else source
    backbone.model.to(request.device)
    backbone.encoder.to(request.device)
    scan = prepare_scan(backbone, request, team, progress)
    evidence = gather_evidence(data, request, scan)
    scan = replace(scan, store=_store(scan, evidence, request, resume))
    began = time.monotonic()
    chosen = STRATEGIES[request.strategy].choose(scan, evidence, request.settings)
    seconds = time.monotonic() - began + scan.tally.seconds
    cost = Cost(forward_passes=int(team.sum(torch.tensor(scan.tally.passes))), seconds=seconds)
    taps = scan.taps if chosen.tap in scan.taps else (*scan.taps, chosen.tap)
    massive = massive_taps(scan, evidence.images, chosen.noise, taps)
    record = _record(chosen, scan, evidence, request.strategy, cost).model_copy(update={"massive": massive})
    scan.store.discard()
    return record


def prepare_scan(backbone: LoadedBackbone, request: Request, team: Team, progress: Progress = silent) -> Scan:
    """The scan of a request; raises InputError for unsupported values before any image is read."""
    model = backbone.model
    components = tuple(dict.fromkeys(request.components or model.components))
    taps = candidate_taps(components, model.depth, request.blocks)
    model.wanted((*taps, *filter(None, [request.settings.tap])))  # refuses components that the family does not have
    schedule = backbone.schedule
    default = schedule.candidates(TIMESTEPS) if request.strategy == "fixed" else schedule.candidates()
    scan = Scan(
        backbone,
        tuple(dict.fromkeys(schedule.levels(request.timesteps or default))),
        taps,
        request.imgsz or (backbone.side, backbone.side),
        seed=request.seed,
        batch=request.batch,
        team=team,
        progress=progress,
    )
    backbone.grid(scan.imgsz)  # refuses unsupported sizes
    return scan


def gather_evidence(data: Path | None, request: Request, scan: Scan) -> Evidence:
    """The images of a request, and labels if the strategy needs them."""
    entry = STRATEGIES[request.strategy]
    count = request.images or entry.images
    if data is None:
        if entry.looks:
            without = ", ".join(name for name, other in STRATEGIES.items() if not other.looks)
            raise InputError(
                f"got no data for the strategy {request.strategy!r}, expected a folder of images or a video; give it "
                f"one, or choose a strategy that needs none: {without}",
                parameter=("data", "strategy"),
            )
        return Evidence(NO_IMAGES)
    if not entry.labels:
        return Evidence(open_images(data, count, request.seed, request.task))
    train, val = (
        open_labelled(data, split, request.task, count, request.seed, scan.imgsz, scan.resize)
        for split in ("train", "val")
    )
    for split, part, fewest in (("train", train, 2), ("val", val, 1)):
        there = part.labels.unique()
        if int((there != NO_LABEL).sum()) < fewest:
            raise InputError(
                f"{data}: got {fewest - 1} classes in the labels of {split} that were read, expected {fewest} or more, "
                "because every candidate would have the same score; add labels, or choose a strategy without labels",
                parameter=("data", "strategy"),
            )
    if train.classes != val.classes:
        raise InputError(
            f"{data}: got {train.classes} classes in train and {val.classes} in val, expected the same; add a "
            "classes.json or the missing folders"
        )
    return Evidence(train.images, train, val)


def _store(scan: Scan, evidence: Evidence, request: Request, path: Path | None) -> Store:
    if path is None:
        return Store()
    labels = (evidence.train, evidence.val) if evidence.train and evidence.val else ()
    key = scan_key(
        strategy=request.strategy,
        settings=asdict(request.settings),
        backbone=backbone_digest(scan.backbone.model, scan.backbone.encoder, scan.backbone.condition),
        levels=[level.model_dump() for level in scan.levels],
        taps=[str(tap) for tap in scan.taps],
        frames=[scan.imgsz, scan.resize.model_dump(), scan.seed, scan.batch],
        images=evidence.images.fingerprint.model_dump(),
        labels=[[part.images.fingerprint.sha256, _digest([part.labels])] for part in labels],
        team=[scan.team.rank, scan.team.size],
    )
    place = f"-{scan.team.rank}" if scan.team.size > 1 else ""
    return Store(path.with_name(f".{path.name}{place}.scan"), key)


def _digest(tensors: Sequence[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _record(choice: Choice, scan: Scan, evidence: Evidence, strategy: str, cost: Cost) -> Selection:
    backbone = scan.backbone
    return Selection(
        backbone=backbone.source,
        backbone_sha256=backbone_digest(backbone.model, backbone.encoder, depth=1 + choice.tap.block),
        noise=choice.noise,
        tap=choice.tap,
        strategy=strategy,
        scores=choice.scores,
        data=evidence.images.fingerprint if len(evidence.images) else None,
        seed=scan.seed,
        label=scan.backbone.label,
        note=choice.note,
        distribution=choice.distribution,
        mixture=choice.mixture,
        cost=cost,
        parameters=dict(choice.parameters),
    )
