"""The training of one row: prepared, trained, resumed, and its result, bundle or teacher written."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle import TapModel, save_bundle
from aselect_edge.data import open_data
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.training.checkpoint import RunState
from aselect_edge.training.goal import open_goal
from aselect_edge.training.loop import learn
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.request import TrainRequest
from aselect_edge.training.run import bundle_record
from aselect_runtime.errors import InputError
from aselect_runtime.files import atomic_write
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import HeadSpec, Selection, Tap
from research.row_data import Labelled, load_labelled
from research.row_jobs import GUIDED, SETS, SETTINGS, Job, Sources
from research.row_learner import DeviceLearner, figures_on
from research.row_models import Prepared, build_model, load_guide

log = logging.getLogger("rows")

LEAST = 5.0
"""Seconds that each call trains at least."""
CLOCK = "seconds.json"


def _prepare(job: Job, sources: Sources, device: torch.device, small: bool, opened: dict[Any, Labelled]) -> Prepared:
    """Prepare a job; `opened` keeps the data of earlier jobs on the device."""
    plan = SETTINGS[job.task]
    imgsz = (112, 144) if small else tuple(job.changes.get("imgsz", plan.imgsz))
    head = HeadSpec(**job.changes["head"]) if "head" in job.changes else plan.head
    recipe = _recipe(job, small)
    folder = sources.data / SETS[job.task]
    goal = open_goal(job.task, folder, recipe)
    selection = Selection.load(sources.selections(job.task))
    backbone = load_backbone(sources.backbone)
    taps = tuple(dict.fromkeys(Tap.parse(tap) for tap in (*filter(None, [plan.shallow]), str(selection.tap))))
    request = TrainRequest(
        job.task, backbone, selection, folder, sources.out / job.name, taps, imgsz, head, recipe, random_backbone=True
    )
    record = bundle_record(request, backbone, goal.train.classes, taps, head).model_copy(update={"finetuned": True})
    if (job.task, imgsz) not in opened:
        test = None
        if (folder / "test").is_dir():
            test = open_data(folder, "test", job.task)
        opened[job.task, imgsz] = load_labelled(job.task, goal, test, imgsz, record.resize, recipe, device, small)
    data = replace(opened[job.task, imgsz], goal=goal, label_stride=job.changes.get("label_stride", 1))
    return Prepared(job, recipe, record, selection, backbone, data)


def _recipe(job: Job, small: bool) -> Recipe:
    """The task's recipe with the job's changes."""
    names = {field.name for field in fields(Recipe)}
    changed = {name: value for name, value in job.changes.items() if name in names}
    recipe = replace(SETTINGS[job.task].recipe, seed=job.seed, **changed)
    if job.row == "teacher":
        recipe = replace(recipe, backbone_rate=2e-4)  # its weights are pretrained
    return replace(recipe, samples=64, batch=16, validations=2) if small else recipe


def train_row(
    job: Job,
    sources: Sources,
    seconds: float,
    device: torch.device,
    small: bool = False,
    opened: dict[Any, Labelled] | None = None,
    progress: Progress = silent,
) -> Path:
    """Train a job and return its result, `out/NAME.json`; one that is there already is kept.

    The learning rate ends with the samples or with `seconds`, whichever ends first. These are of all calls together,
    with what they need before the first step, see `seconds_used`. An interrupted job resumes from its checkpoint;
    raises InputError if that, or the result, is of other settings.
    """
    result, folder = sources.out / f"{job.name}.json", sources.out / job.name
    if result.is_file():
        _check_same(result, job, small)
        return result
    clock = Clock(folder / CLOCK)
    ready = _prepare(job, sources, device, small, {} if opened is None else opened)
    torch.manual_seed(job.seed)
    model, frozen = build_model(ready, sources)
    guide = load_guide(ready, sources, device) if job.row.startswith(GUIDED) else None
    learner = DeviceLearner(model, ready.data, ready.recipe, device, frozen, guide, mixup=SETTINGS[job.task].mixup)
    folder.mkdir(parents=True, exist_ok=True)
    used = clock.seconds
    state = learn(
        learner,
        ready.recipe,
        _identity(ready),
        folder,
        clock.ticking(progress),
        max(used + LEAST, seconds),
        used,
    )
    learner.module.load_state_dict(state.best_weights)
    val = learner.validate(learner.module)
    test = figures_on(learner.module, ready.data, "test", device) if "test" in ready.data.held else None
    seconds = round(clock.seconds, 1)
    model.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    _keep(ready, model, val, state.curve[-1][0], sources.out)
    atomic_write(result, json.dumps(_outcome(ready, small, val, test, state, seconds)))
    for name in ("checkpoint.pt", CLOCK):
        (folder / name).unlink(missing_ok=True)
    told = None if test is None else round(test.score, 4)
    log.info("%s: val %.4f test %s, %d samples in %.0f s", job.name, val.score, told, state.curve[-1][0], seconds)
    return result


def _outcome(
    ready: Prepared, small: bool, val: Figures, test: Figures | None, state: RunState, seconds: float
) -> dict[str, Any]:
    """The content of a result."""
    return {
        **asdict(ready.job),
        "small": small,
        "val": val.score,
        "test": test.score if test else None,
        "per_class": test.per_class if test else val.per_class,
        "samples": state.curve[-1][0],
        "seconds": seconds,
        "curve": [row[:3] for row in state.curve],  # the loss on val is not measured
        "taps": [str(tap) for tap in ready.record.taps],
        "timestep": ready.selection.noise.model_timestep,
        "imgsz": ready.record.imgsz,
        "head": ready.record.head.model_dump(),
    }


def seconds_used(job: Job, sources: Sources) -> float:
    """The seconds that earlier calls, which were interrupted, have trained a job."""
    return Clock(sources.out / job.name / CLOCK).before


def _check_same(result: Path, job: Job, small: bool) -> None:
    found = json.loads(result.read_text(encoding="utf-8"))
    got = {**found["changes"], "small": found.get("small", False)}
    expected = {**json.loads(json.dumps(job.changes)), "small": small}
    if got != expected:
        raise InputError(f"{result}: got a result of {got}, expected one of {expected}; choose another folder")


def _identity(ready: Prepared) -> str:
    """What a checkpoint must share with the run that resumes it."""
    parts = [asdict(ready.job), asdict(ready.recipe), ready.record.model_dump_json()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Clock:
    """The seconds that all calls of a row have used, in a file that is renewed every 10 s."""

    def __init__(self, path: Path) -> None:
        self.path, self.began, self.written = path, time.monotonic(), -math.inf
        self.before = float(json.loads(path.read_text())["seconds"]) if path.is_file() else 0.0

    @property
    def seconds(self) -> float:
        """Of this call and those before."""
        return self.before + time.monotonic() - self.began

    def ticking(self, progress: Progress) -> Progress:
        """`progress`, which also renews the file."""

        def report(what: str, share: float) -> None:
            if self.seconds - self.written > 10:
                atomic_write(self.path, json.dumps({"seconds": self.seconds}))
                self.written = self.seconds
            progress(what, share)

        return report


def _keep(ready: Prepared, model: nn.Module, val: Figures, samples: int, rows: Path) -> None:
    """Save the trained teacher, which guides other jobs, or the bundle of a candidate."""
    name = ready.job.name
    if ready.job.row == "teacher":
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, rows / f"{name}.part")
        os.replace(rows / f"{name}.part", rows / f"{name}.safetensors")
    elif isinstance(model, TapModel) and (ready.job.row.startswith(GUIDED) or ready.job.row == "finetuned"):
        metrics = {f"val_{val.metric}": val.score, "samples": float(samples)}
        save_bundle(
            rows / name / "bundle", ready.record.model_copy(update={"metrics": metrics}), ready.selection, model
        )
