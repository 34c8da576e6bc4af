"""The rows of the accuracy benchmark, the selection that each uses, and the commands that produce it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle import SHIPPED
from aselect_edge.selection import Request, select_tap
from aselect_runtime.records import Selection, Tap, Task
from benchmarks.selection import JOBS as SCANS

TRAIN = "from aselect_edge.commands.train import train; train()"
EVALUATE = "from aselect_export.commands.evaluate import evaluate; evaluate()"
PICKS = Path(__file__).parent / "results" / "selection.json"

Level = Literal["selected", "fixed", "exhaustive"]
Kind = Literal["frozen", "fine-tuned", "cnn"]


@dataclass(frozen=True)
class Row:
    """One way to get a model; rows of a kind share everything except what their titles say."""

    title: str
    kind: Kind
    level: Level = "selected"
    random: bool = False


ROWS = {
    "frozen": Row("frozen, pretrained, selected timestep", "frozen"),
    "frozen-random": Row("frozen, random weights", "frozen", random=True),
    "frozen-fixed": Row("frozen, pretrained, timestep 100 of 1000 (DDAE's)", "frozen", "fixed"),
    "frozen-exhaustive": Row("frozen, pretrained, the exhaustive search's pick", "frozen", "exhaustive"),
    "finetuned": Row("fine-tuned from the pretrained backbone", "fine-tuned"),
    "finetuned-random": Row("the same architecture from scratch", "fine-tuned", random=True),
    "cnn": Row("CNN of the same latency from scratch", "cnn"),
}


@dataclass(frozen=True)
class RowPlan:
    """A task's default settings."""

    folder: str
    """Sub-folder of $ASELECT_DATA."""
    imgsz: str
    head: str
    shallow: str
    """A tap read in addition to the selected one."""


PLANS: dict[Task, RowPlan] = {
    "seg": RowPlan("camvid", "144x192", "conv", "0.hidden"),
    "cls": RowPlan("cub40", "144x144", "attention", ""),
}


@dataclass(frozen=True)
class Job:
    """The common settings of all rows of a working folder; rows of two jobs must not be compared."""

    task: Task
    backbone: str
    weights: str
    """SHA-256 of the backbone's files, empty for a hub id."""
    selection: str
    """A selection.json, or empty: the recommended strategy is run."""
    taps: str
    """Comma separated, or empty: the selection's tap, after the task's shallow one."""
    imgsz: str
    head: str
    samples: int
    """Samples for fine-tuning, training from scratch and the CNN."""
    frozen_samples: int
    recipe: dict[str, Any]
    """The task's recipe, without budget and seed."""

    def to_json(self) -> dict[str, Any]:
        """The form in which it is stored in the working folder and in the result."""
        return asdict(self)

    def budget(self, row: Row) -> int:
        """Number of samples that a row sees."""
        return self.frozen_samples if row.kind == "frozen" else self.samples

    def taps_at(self, selection: Selection, level: Level) -> str:
        """The taps of a row; the exhaustive search's tap replaces the deepest of the given ones."""
        given = self.taps.split(",") if self.taps else [PLANS[self.task].shallow, str(selection.tap)]
        deepest = str(selection.tap) if level == "exhaustive" else given[-1]
        return ",".join(dict.fromkeys(tap for tap in (*given[:-1], deepest) if tap))


def selection_of(job: Job, level: Level, seed: int, data: Path, work: Path) -> Path:
    """The selection of a level as a file in `work`, made at its first use."""
    path = work / (f"selection-exhaustive-{seed}.json" if level == "exhaustive" else f"selection-{level}.json")
    if not path.is_file():
        _choose(job, level, seed, data, work).save(path)
    return path


def _choose(job: Job, level: Level, seed: int, data: Path, work: Path) -> Selection:
    if level == "exhaustive":
        return _exhaustive(job, seed, data)
    if level == "fixed":
        selected = Selection.load(selection_of(job, "selected", seed, data, work))
        schedule = load_backbone(job.backbone, depth=1).schedule
        (noise,) = schedule.levels(schedule.candidates(11)[1:2])  # the second of 0, 100, 200 ... of 1000
        return selected.model_copy(update={"noise": noise, "strategy": "manual", "scores": ()})
    if job.selection:
        return Selection.load(Path(job.selection))
    if job.task in SHIPPED:
        return Selection.load(SHIPPED[job.task] / "selection.json")
    return select_tap(job.backbone, data, Request(task=job.task, imgsz=_scan(job.task).imgsz))


def _exhaustive(job: Job, seed: int, data: Path) -> Selection:
    """The search's choice as recorded by the selection benchmark on the same weights, else a search of that size."""
    folder = PLANS[job.task].folder
    recorded = json.loads(PICKS.read_text(encoding="utf-8")) if PICKS.is_file() else {}
    if job.weights and recorded.get(folder, {}).get("weights") == job.weights:
        picks = recorded[folder]["rows"]["exhaustive"]["picks"]
        tap, _, step = picks[seed % len(picks)].partition(" at ")
        (noise,) = load_backbone(job.backbone, depth=1).schedule.levels([float(step)])
        return Selection(backbone=job.backbone, noise=noise, tap=Tap.parse(tap), strategy="exhaustive", seed=seed)
    scan = _scan(job.task)
    request = Request("exhaustive", job.task, images=scan.labelled, imgsz=scan.imgsz, seed=seed)
    return select_tap(job.backbone, data, request).model_copy(update={"scores": ()})


def _scan(task: Task) -> Any:
    return next(scan for scan in SCANS if scan.task == task)


def train_command(
    job: Job, row: Row, seed: int, selection: Path, data: Path, out: Path, threads: int, samples: int | None = None
) -> list[str]:
    """The `aselect-train` command line of a row."""
    chosen = Selection.load(selection)
    options = {
        "--task": job.task,
        "--backbone": job.backbone,
        "--selection": selection,
        "--taps": job.taps_at(chosen, row.level),
        "--data": data,
        "--out": out,
        "--imgsz": job.imgsz,
        "--head": job.head,
        "--samples": samples or job.budget(row),
        "--seed": seed,
        "--threads": threads,
    }
    flags = [*(["--finetune"] if row.kind == "fine-tuned" else []), *(["--random-backbone"] if row.random else [])]
    options_given = [str(part) for option in options.items() for part in option]
    return [sys.executable, "-c", TRAIN, *options_given, *flags]


def evaluate_command(model: Path, data: Path) -> list[str]:
    """The `aselect-eval` command line for the test split."""
    return [sys.executable, "-c", EVALUATE, str(model), "--data", str(data), "--split", "test", "--json"]
