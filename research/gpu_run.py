"""The GPU run: a taught backbone, its selections, both bundles and the comparison, in a budget of seconds.

    python -m research.gpu_run --pack build/gpu-pack.zip --out FOLDER --seconds 540 [--stages pretrain,select,rows]

Every stage has its share of the budget, ends on time with something usable, and is skipped where its result is there
already, so that a run goes on where another one stopped. `figures.json` and `run.log` in FOLDER say what came out;
`results.zip.NNN` hold backbone, bundles, selections and figures in parts of at most 15 MiB (`cat` joins them).
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import queue
import sys
import time
import traceback
import zipfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.bundle import perception, save_bundle
from aselect_edge.data import open_classification, open_segmentation
from aselect_runtime.errors import AselectError, InputError
from aselect_runtime.files import atomic_write
from aselect_edge.heads import build_head
from aselect_runtime.records import HeadSpec, Selection, Tap, Task
from aselect_edge.selection import Request, select_tap
from aselect_edge.training.goal import open_goal
from aselect_edge.training.loop import learn
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.request import TrainRequest
from aselect_edge.training.run import _randomised, _record
from benchmarks.cnn import build_cnn
from research.gpu_tasks import DeviceLearner, Labelled, TeacherModel, figures_on, load_labelled
from research.pack import unpack
from research.resident import load_corpus
from research.taught import CONFIG, pretrain
from research.taught import Recipe as Pretraining
from research.teacher import load_teacher

log = logging.getLogger("gpu")
PART = 15 * 2**20
LEAST_SECONDS = 20
SETS = {"seg": "camvid", "cls": "cub40"}


@dataclass(frozen=True)
class Plan:
    """What a task's rows share."""

    imgsz: tuple[int, int]
    head: HeadSpec
    shallow: str
    """A tap that is read beside the selected one; empty for none."""
    blocks: int
    """At most so many blocks of the backbone may be deployed, for its latency."""
    recipe: Recipe
    cnn_width: float
    """Makes the CNN as fast as the deployed model: `python -m benchmarks.accuracy` measured it."""
    mixup: float = 0.0


PLANS: dict[Task, Plan] = {
    "seg": Plan(
        (288, 384),
        HeadSpec(kind="edge", channels=96),
        "0.hidden",
        5,
        Recipe(samples=64_000, batch=64, learning_rate=2e-3, backbone_rate=6e-4, validations=5, synthetic=0.1),
        0.9,
    ),
    "cls": Plan(
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
    """One training: a row of the comparison, or a candidate for the bundle that ships."""

    task: Task
    row: str
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)
    """What differs from the task's plan: `imgsz`, `head`, `taps`, `samples`."""

    @property
    def name(self) -> str:
        """Its file."""
        return f"{self.task}-{self.row}-{self.seed}"


ROWS = ("teacher", "finetuned", "finetuned-random", "frozen", "frozen-random", "cnn")
GUIDED = "ship"
"""Rows whose name starts so are guided by the trained teacher and are candidates for the bundle."""


def jobs() -> list[Job]:
    """In the order in which they are worth having."""
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


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/gpu-run"), help="data, checkpoints, state between runs")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--pretrain-share", type=float, default=0.42, help="of the seconds")
    parser.add_argument("--stages", default="pretrain,select,rows")
    parser.add_argument("--workers", type=int, default=5, help="trainings side by side")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a rehearsal: tiny batches and few pictures")
    arguments = parser.parse_args(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(relativeCreated)7.0f ms %(message)s",
        handlers=[logging.StreamHandler(sys.stderr), logging.FileHandler(arguments.out / "run.log")],
    )
    logging.captureWarnings(True)
    try:
        run(arguments)
    except AselectError as error:
        log.error("error: %s", error)
        return 1
    return 0


def run(arguments: argparse.Namespace) -> None:
    """All stages; raises InputError before anything is written for what cannot be done."""
    began = time.monotonic()
    if arguments.seconds < LEAST_SECONDS:
        raise InputError(f"got --seconds {arguments.seconds:g}, expected at least {LEAST_SECONDS}; raise it")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("got no GPU that torch finds, expected one; run it there, or rehearse with --device cpu --small")
    device, work, stages = torch.device(arguments.device), arguments.work, arguments.stages.split(",")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    data = work / "data"
    if not (data / "teacher.safetensors").is_file():
        unpack(arguments.pack, data, os.cpu_count() or 1)
    log.info("unpacked: %.1f s; torch %s on %s", time.monotonic() - began, torch.__version__, _name(device))
    backbone = work / "backbone"
    if "pretrain" in stages:
        budget = max(5.0, arguments.seconds * arguments.pretrain_share - (time.monotonic() - began))
        _pretrain(data, backbone, budget, device, arguments.small)
        log.info("pretrained: %.1f s", time.monotonic() - began)
    if "select" in stages:
        for task in ("seg", "cls"):
            _select(task, data, backbone, work, device, arguments.small)
        log.info("selected: %.1f s", time.monotonic() - began)
    if device.type == "cuda":
        log.info("peak GPU memory: %.1f GB", torch.cuda.max_memory_allocated() / 1e9)
        torch.cuda.empty_cache()  # the rows are trained by other processes
    if "rows" in stages:
        deadline = began + arguments.seconds - 12
        _rows(work, deadline, arguments)
        log.info("rows: %.1f s", time.monotonic() - began)
    _collect(work, arguments.out)
    log.info("done: %.1f s", time.monotonic() - began)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _pretrain(data: Path, out: Path, seconds: float, device: torch.device, small: bool) -> None:
    corpus = load_corpus(data, device, 16 if small else 1200, workers=os.cpu_count() or 1)
    log.info("corpus: %d pictures", corpus.count)
    teacher = load_teacher(data / "teacher.safetensors").to(device)
    if device.type == "cuda":
        teacher = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = Pretraining(seconds=seconds, compiled=device.type == "cuda" and not small)
    if small:
        recipe = replace(recipe, batch=8, frame_batch=2, crop=(64, 64), frame=(64, 96), save_every=5)
    pretrain(corpus, out, recipe, teacher, device, CONFIG)


STRATEGIES: dict[str, dict[str, Any]] = {
    "probe": {"images": 512, "timesteps": (0, 20, 50, 100, 150, 200, 300, 400)},
    "hfr": {"images": 64},
    "hfr-signal": {"images": 64},
    "smallest-sigma": {"images": 8},
}


def _select(task: Task, data: Path, backbone: Path, work: Path, device: torch.device, small: bool) -> None:
    loaded = load_backbone(str(backbone))
    plan = PLANS[task]
    for strategy, options in STRATEGIES.items():
        path = work / f"{task}-{strategy}.selection.json"
        if path.is_file():
            continue
        options = {**options, **({"images": 48, "timesteps": (0, 100, 300)} if small else {})}
        imgsz = (112, 144) if small else plan.imgsz
        request = Request(strategy, task, imgsz=imgsz, batch=32, device=device, blocks=plan.blocks, **options)
        select_tap(loaded, data / SETS[task], request).save(path)
        chosen = Selection.load(path)
        log.info("%s %s: %s at timestep %s", task, strategy, chosen.tap, chosen.noise.model_timestep)


def _rows(work: Path, deadline: float, arguments: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    todo, results = context.Queue(), work / "rows"
    results.mkdir(exist_ok=True)
    waiting = [job for job in jobs() if not (results / f"{job.name}.json").is_file()]
    if arguments.small:
        waiting = [job for job in waiting if job.seed == 0 and job.row in (*ROWS, "ship-attention", "ship-edge")]
    for job in waiting:
        todo.put(job)
    wall = time.time() + deadline - time.monotonic()
    workers = [
        context.Process(target=_work, args=(todo, work, wall, arguments.device, arguments.small))
        for _ in range(min(arguments.workers, len(waiting)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(1.0, wall - time.time()) + 20)
        if worker.is_alive():
            log.warning("a worker was still busy at the deadline and was ended")
            worker.kill()
            worker.join()


def _work(todo: Any, work: Path, wall: float, device_name: str, small: bool) -> None:
    """Train jobs until there are none, or the next one would not end in time."""
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
        except Exception:  # one row's fault must not lose the others
            log.error("%s failed:\n%s", job.name, traceback.format_exc())
            (work / "rows" / f"{job.name}.error").write_text(traceback.format_exc())
            continue
        longest = max(longest, min(25.0, time.time() - began))


def _train(
    job: Job, work: Path, left: float, device: torch.device, small: bool, opened: dict[Any, Labelled]
) -> None:
    plan, recipe = PLANS[job.task], replace(PLANS[job.task].recipe, seed=job.seed)
    imgsz = tuple(job.changes.get("imgsz", plan.imgsz))
    head = HeadSpec(**job.changes["head"]) if "head" in job.changes else plan.head
    recipe = replace(recipe, samples=job.changes.get("samples", recipe.samples))
    if small:
        imgsz, recipe = (112, 144), replace(recipe, samples=64, batch=16, validations=2)
    data = work / "data" / SETS[job.task]
    goal = open_goal(job.task, data, recipe)
    selection = Selection.load(work / f"{job.task}-probe.selection.json")
    loaded = load_backbone(str(work / "backbone"))
    taps = tuple(Tap.parse(tap) for tap in (*filter(None, [plan.shallow]), str(selection.tap)))
    taps = tuple(dict.fromkeys(taps))
    request = TrainRequest(
        job.task, loaded, selection, data, work / job.name, taps, imgsz, head, recipe, unfreeze=None, random_backbone=True
    )
    record = _record(request, loaded, goal.train.classes, taps, head).model_copy(update={"finetuned": True})
    if (job.task, imgsz) not in opened:
        test = None
        if (data / "test").is_dir():
            test = (open_segmentation if job.task == "seg" else open_classification)(data, "test")
        opened[job.task, imgsz] = load_labelled(job.task, goal, test, imgsz, record.resize, recipe, device)
    labelled = replace(opened[job.task, imgsz], goal=goal)
    torch.manual_seed(job.seed)
    model, frozen = _model(job, plan, head, record, loaded, labelled.classes, work)
    if job.row == "teacher":
        recipe = replace(recipe, backbone_rate=2e-4)
    guide = _guide(job, plan, labelled.classes, work, device) if job.row.startswith(GUIDED) else None
    mixup = plan.mixup
    learner = DeviceLearner(model, labelled, recipe, device, frozen, guide, mixup=mixup)
    folder = work / "rows" / job.name
    folder.mkdir(parents=True, exist_ok=True)
    began = time.time()
    state = learn(learner, recipe, job.name, folder, lambda _what, _share: None, seconds=max(5.0, left - 8))
    learner.module.load_state_dict(state.best_weights)
    val = learner.measure(learner.module)
    test = figures_on(learner.module, labelled, "test", device) if "test" in labelled.held else None
    outcome = {
        **asdict(job),
        "val": val.score,
        "test": test.score if test else None,
        "per_class": test.per_class if test else val.per_class,
        "samples": state.curve[-1][0],
        "seconds": round(time.time() - began, 1),
        "curve": state.curve,
        "taps": [str(tap) for tap in taps],
        "timestep": selection.noise.model_timestep,
        "imgsz": imgsz,
        "head": head.model_dump(),
    }
    model.cpu().eval()
    if job.row == "teacher":
        torch.save(model.state_dict(), work / "rows" / f"{job.name}.part")
        os.replace(work / "rows" / f"{job.name}.part", work / "rows" / f"{job.name}.pt")
    if job.row.startswith(GUIDED) or job.row == "finetuned":
        metrics = {f"val_{val.metric}": val.score, "samples": float(state.curve[-1][0])}
        save_bundle(folder / "bundle", record.model_copy(update={"metrics": metrics}), selection, model)  # type: ignore[arg-type]
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    atomic_write(work / "rows" / f"{job.name}.json", json.dumps(outcome))
    log.info("%s: val %.4f test %s, %d samples in %.0f s", job.name, val.score, outcome["test"], outcome["samples"], outcome["seconds"])


def _model(
    job: Job, plan: Plan, head: HeadSpec, record: Any, loaded: LoadedBackbone, classes: int, work: Path
) -> tuple[nn.Module, bool]:
    """The row's model with fresh weights of torch's seed, and whether its backbone is frozen."""
    if job.row == "teacher":
        return TeacherModel(load_teacher(work / "data" / "teacher.safetensors"), job.task, plan.head, classes), False
    if job.row == "cnn":
        return build_cnn(job.task, classes, plan.cnn_width), False
    if job.row.endswith("random"):
        loaded = _randomised(loaded, job.seed)
    widths = [loaded.model.width] * len(record.taps)
    return perception(loaded, build_head(head, job.task, widths, classes), record), job.row.startswith("frozen")


def _guide(job: Job, plan: Plan, classes: int, work: Path, device: torch.device) -> nn.Module:
    """The trained teacher of the same seed-0 row; waits for it, because another worker may still be training it."""
    path = work / "rows" / f"{job.task}-teacher-0.pt"
    for _ in range(600):
        if path.is_file():
            break
        if (work / "rows" / f"{job.task}-teacher-0.error").is_file():
            break
        time.sleep(0.5)
    model = TeacherModel(load_teacher(work / "data" / "teacher.safetensors"), job.task, plan.head, classes)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval().requires_grad_(False).to(device)


def _collect(work: Path, out: Path) -> None:
    """Figures, and everything worth keeping in parts that may be carried; the best candidates' bundles by val."""
    rows = [json.loads(path.read_text()) for path in sorted((work / "rows").glob("*.json"))] if (work / "rows").is_dir() else []
    errors = {path.stem: path.read_text() for path in (work / "rows").glob("*.error")} if (work / "rows").is_dir() else {}
    atomic_write(out / "figures.json", json.dumps({"rows": rows, "errors": errors}, indent=1))
    content: list[tuple[Path, str]] = [(out / "figures.json", "figures.json")]
    content += [(path, f"backbone/{path.relative_to(work / 'backbone')}") for path in _files(work / "backbone")]
    content += [(path, path.name) for path in work.glob("*.selection.json")]
    for task in SETS:
        bundles = [row for row in rows if row["task"] == task and (row["row"].startswith(GUIDED) or row["row"] == "finetuned")]
        for row in sorted(bundles, key=lambda row: -float(row["val"]))[:1]:
            name = f"{row['task']}-{row['row']}-{row['seed']}"
            folder = work / "rows" / name / "bundle"
            content += [(path, f"bundles/{name}/{path.relative_to(folder)}") for path in _files(folder)]
    whole = work / "results.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, name in content:
            archive.write(path, name)
    for old in out.glob("results.zip.*"):
        old.unlink()
    data = whole.read_bytes()
    for index, start in enumerate(range(0, len(data), PART)):
        (out / f"results.zip.{index:03d}").write_bytes(data[start : start + PART])
    log.info("results: %.1f MiB in %d parts, %d rows", len(data) / 2**20, -(-len(data) // PART), len(rows))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "checkpoint.pt") if folder.is_dir() else []


if __name__ == "__main__":
    sys.exit(main())
