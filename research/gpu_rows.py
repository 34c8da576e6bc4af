"""The rows of the comparison, and the candidates for the bundles: their training, several jobs in parallel.

Each job writes `rows/NAME.json` when it is done, so that an interrupted run resumes; a job that fails
leaves `rows/NAME.error` and the other jobs continue.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import queue
import time
import traceback
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.bundle import TapModel, save_bundle, tap_model
from aselect_edge.data import open_classification, open_segmentation
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.heads import build_head
from aselect_edge.training.efficientnet import load_efficientnet
from aselect_edge.training.goal import open_goal
from aselect_edge.training.loop import learn
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.request import TrainRequest
from aselect_edge.training.run import bundle_record, randomised
from aselect_runtime.files import atomic_write
from aselect_runtime.records import Bundle, HeadSpec, Selection, Tap, Task
from benchmarks.cnn import build_cnn
from research.gpu_tasks import DeviceLearner, Labelled, TeacherModel, figures_on, load_labelled

log = logging.getLogger("gpu")

SETS = {"seg": "camvid", "cls": "cub40"}


@dataclass(frozen=True)
class RowSettings:
    """Settings shared by the rows of a task."""

    imgsz: tuple[int, int]
    head: HeadSpec
    shallow: str
    """A tap that is read in addition to the selected one; empty for none."""
    blocks: int
    """Maximum number of backbone blocks that may be deployed, which limits latency."""
    recipe: Recipe
    cnn_width: float
    """Width at which the CNN is as fast as the deployed model, as measured by `python -m benchmarks.accuracy`."""
    mixup: float = 0.0


SETTINGS: dict[Task, RowSettings] = {
    "seg": RowSettings(
        (288, 384),
        HeadSpec(kind="edge", channels=96),
        "0.hidden",
        5,
        Recipe(samples=64_000, batch=64, learning_rate=2e-3, backbone_rate=6e-4, validations=5, synthetic=0.1),
        0.9,
    ),
    "cls": RowSettings(
        (224, 224),
        HeadSpec(kind="attention", channels=128),
        "",
        8,
        Recipe(samples=96_000, batch=96, learning_rate=1e-3, backbone_rate=5e-4, validations=5, weight_decay=0.05),
        1.95,
        mixup=0.4,
    ),
}


@dataclass(frozen=True)
class Job:
    """One training: a row of the comparison, or a candidate for the included bundle."""

    task: Task
    row: str
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)
    """Values that differ from the task's plan: `imgsz`, `head`, `taps`, `samples`."""

    @property
    def name(self) -> str:
        """The job's name, used in its file names."""
        return f"{self.task}-{self.row}-{self.seed}"


ROWS = ("teacher", "finetuned", "finetuned-random", "frozen", "frozen-random", "cnn")
GUIDED = "ship"
"""Prefix of rows that are guided by the trained teacher and are candidates for the bundle."""


def jobs() -> list[Job]:
    """All jobs, the most important first."""
    first = [Job(task, "teacher") for task in ("cls", "seg")]
    ship = [
        Job("cls", "ship-attention"),
        Job("seg", "ship-edge"),
        Job("cls", "ship-linear", changes={"head": {"kind": "linear", "channels": 128}}),
        Job("cls", "ship-large", changes={"imgsz": (256, 256)}),
        Job("seg", "ship-wide", changes={"head": {"kind": "edge", "channels": 128}}),
        Job("seg", "ship-long", changes={"samples": 128_000}),
    ]
    rest = [Job(task, row, seed) for seed in range(3) for row in ROWS for task in ("cls", "seg")]
    return [*first, *ship, *(job for job in rest if job not in first)]


def train_rows(work: Path, seconds: float, device: str, workers: int, small: bool) -> None:
    """Train the jobs that have no result yet, `workers` in parallel, until the time is over."""
    context = multiprocessing.get_context("spawn")
    todo, results = context.Queue(), work / "rows"
    results.mkdir(exist_ok=True)
    waiting = [job for job in jobs() if not (results / f"{job.name}.json").is_file()]
    if small:
        waiting = [job for job in waiting if job.seed == 0 and job.row in (*ROWS, "ship-attention", "ship-edge")]
    for job in waiting:
        todo.put(job)
    wall = time.time() + seconds
    running = [
        context.Process(target=_work, args=(todo, work, wall, device, small)) for _ in range(min(workers, len(waiting)))
    ]
    for worker in running:
        worker.start()
    for worker in running:
        worker.join(max(0.1, wall - time.time()))
        if worker.is_alive():
            log.warning("a training had not finished at the deadline and was stopped")
            worker.kill()
            worker.join()


def _work(todo: Any, work: Path, wall: float, device_name: str, small: bool) -> None:
    """Train jobs until there are none, or until the next one would not finish in time."""
    logging.basicConfig(level=logging.INFO, format=f"{os.getpid()} %(message)s")
    device = torch.device(device_name)
    torch.set_num_threads(2)
    opened: dict[tuple[Task, tuple[int, int]], Labelled] = {}
    longest = 5.0
    while time.time() + longest < wall:
        try:
            job = todo.get(timeout=0.5)
        except queue.Empty:
            return
        began = time.time()
        try:
            _train(job, work, wall - time.time(), device, small, opened)
        except Exception:  # a failed row must not stop the others
            log.error("%s failed:\n%s", job.name, traceback.format_exc())
            (work / "rows" / f"{job.name}.error").write_text(traceback.format_exc())
            continue
        longest = max(longest, min(25.0, time.time() - began))


@dataclass(frozen=True)
class Prepared:
    """A job with everything needed to train it."""

    job: Job
    recipe: Recipe
    record: Bundle
    selection: Selection
    backbone: LoadedBackbone
    data: Labelled


def _prepare(job: Job, work: Path, device: torch.device, small: bool, opened: dict[Any, Labelled]) -> Prepared:
    """Prepare a job; `opened` keeps the data of earlier jobs on the device."""
    plan = SETTINGS[job.task]
    imgsz = (112, 144) if small else tuple(job.changes.get("imgsz", plan.imgsz))
    head = HeadSpec(**job.changes["head"]) if "head" in job.changes else plan.head
    recipe = replace(plan.recipe, seed=job.seed, samples=job.changes.get("samples", plan.recipe.samples))
    if small:
        recipe = replace(recipe, samples=64, batch=16, validations=2)
    if job.row == "teacher":
        recipe = replace(recipe, backbone_rate=2e-4)  # its weights are pretrained
    folder = work / "data" / SETS[job.task]
    goal = open_goal(job.task, folder, recipe)
    selection = Selection.load(work / f"{job.task}-probe.selection.json")
    backbone = load_backbone(str(work / "backbone"))
    taps = tuple(dict.fromkeys(Tap.parse(tap) for tap in (*filter(None, [plan.shallow]), str(selection.tap))))
    request = TrainRequest(
        job.task, backbone, selection, folder, work / job.name, taps, imgsz, head, recipe, random_backbone=True
    )
    record = bundle_record(request, backbone, goal.train.classes, taps, head).model_copy(update={"finetuned": True})
    if (job.task, imgsz) not in opened:
        test = None
        if (folder / "test").is_dir():
            test = (open_segmentation if job.task == "seg" else open_classification)(folder, "test")
        opened[job.task, imgsz] = load_labelled(job.task, goal, test, imgsz, record.resize, recipe, device)
    return Prepared(job, recipe, record, selection, backbone, replace(opened[job.task, imgsz], goal=goal))


def _train(job: Job, work: Path, left: float, device: torch.device, small: bool, opened: dict[Any, Labelled]) -> None:
    """Train a job within the remaining seconds, and write its result to `rows/`."""
    ready = _prepare(job, work, device, small, opened)
    torch.manual_seed(job.seed)
    model, frozen = _model(ready, work)
    guide = _guide(ready, work, device) if job.row.startswith(GUIDED) else None
    learner = DeviceLearner(model, ready.data, ready.recipe, device, frozen, guide, mixup=SETTINGS[job.task].mixup)
    folder = work / "rows" / job.name
    folder.mkdir(parents=True, exist_ok=True)
    began = time.time()
    state = learn(learner, ready.recipe, job.name, folder, lambda _what, _share: None, seconds=max(5.0, left - 8))
    learner.module.load_state_dict(state.best_weights)
    val = learner.validate(learner.module)
    test = figures_on(learner.module, ready.data, "test", device) if "test" in ready.data.held else None
    outcome = {
        **asdict(job),
        "val": val.score,
        "test": test.score if test else None,
        "per_class": test.per_class if test else val.per_class,
        "samples": state.curve[-1][0],
        "seconds": round(time.time() - began, 1),
        "curve": state.curve,
        "taps": [str(tap) for tap in ready.record.taps],
        "timestep": ready.selection.noise.model_timestep,
        "imgsz": ready.record.imgsz,
        "head": ready.record.head.model_dump(),
    }
    _keep(ready, model.cpu().eval(), val, state.curve[-1][0], work / "rows")
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    atomic_write(work / "rows" / f"{job.name}.json", json.dumps(outcome))
    log.info(
        "%s: val %.4f test %s, %d samples in %.0f s",
        job.name,
        val.score,
        *(outcome[k] for k in ("test", "samples", "seconds")),
    )


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


def _model(ready: Prepared, work: Path) -> tuple[nn.Module, bool]:
    """The row's model with fresh weights of torch's seed, and whether its backbone is frozen."""
    job, plan, backbone, classes = ready.job, SETTINGS[ready.job.task], ready.backbone, ready.data.classes
    if job.row == "teacher":
        return TeacherModel(
            load_efficientnet(work / "data" / "teacher.safetensors"), job.task, plan.head, classes
        ), False
    if job.row == "cnn":
        return build_cnn(job.task, classes, plan.cnn_width), False
    if job.row.endswith("random"):
        backbone = randomised(backbone, job.seed)
    widths = [backbone.model.width] * len(ready.record.taps)
    head = build_head(ready.record.head, job.task, widths, classes)
    return tap_model(backbone, head, ready.record), job.row.startswith("frozen")


def _guide(ready: Prepared, work: Path, device: torch.device) -> nn.Module:
    """The trained teacher of seed 0; waits for it, because another worker may still be training it."""
    task, path = ready.job.task, work / "rows" / f"{ready.job.task}-teacher-0.safetensors"
    while not path.is_file() and not (work / "rows" / f"{task}-teacher-0.error").is_file():
        time.sleep(0.5)  # the parent process stops this one when the time is over
    model = TeacherModel(
        load_efficientnet(work / "data" / "teacher.safetensors"), task, SETTINGS[task].head, ready.data.classes
    )
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False).to(device)
