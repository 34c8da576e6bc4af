"""The rows of the comparison, and the candidates for the bundles: their settings, their order and where they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aselect_weights
from aselect_edge.training.recipe import Recipe
from aselect_runtime.records import HeadSpec, Task

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
    """Values that differ from the task's settings: `imgsz`, `head`, and fields of the recipe.

    Also `start`, a bundle or a file whose weights are the initial ones, and `label_stride`, see `Labelled`.
    """

    @property
    def name(self) -> str:
        """The job's name, used in its file names."""
        return f"{self.task}-{self.row}-{self.seed}"


@dataclass(frozen=True)
class Sources:
    """Where the rows read their inputs, and where they write."""

    data: Path
    """Folder that holds camvid or cub40."""
    backbone: str
    selections: Callable[[Task], Path]
    """The selection of each task."""
    out: Path
    """Folder of results, bundles and checkpoints."""
    teacher: Path | None = None
    """The teacher's weights; those of the installed package if None."""
    concurrent: bool = False
    """Whether other processes train other rows."""

    @classmethod
    def of_run(cls, work: Path, included: bool = False) -> Sources:
        """The sources of a GPU run: its own backbone and selections, or the included ones."""
        data = work / "data"
        backbone = "shipped" if included else str(work / "backbone")
        found = included_selection if included else partial(_probed, work)
        return cls(data, backbone, found, work / "rows", data / "teacher.safetensors", True)


def included_selection(task: Task) -> Path:
    """The selection of the included bundle."""
    return Path(getattr(aselect_weights, task)) / "selection.json"


def _probed(work: Path, task: Task) -> Path:
    return work / f"{task}-probe.selection.json"


ROWS = ("teacher", "finetuned", "finetuned-random", "frozen", "frozen-random", "cnn")
GUIDED = "ship"
"""Prefix of rows that are guided by the trained teacher and are candidates for the bundle."""
LONG = {"samples": 4_000_000, "batch": 128, "validations": 20}
"""More than a run has time for: a candidate that is trained until its time ends."""


def jobs() -> list[Job]:
    """All jobs, the most important first."""
    first = [Job(task, "teacher") for task in ("seg", "cls")]
    ship = [
        Job("seg", "ship-long", changes=LONG),
        Job("seg", "ship-fine", changes=LONG | {"imgsz": (320, 432)}),
        Job("cls", "ship-large", changes={"imgsz": (256, 256)}),
        Job("cls", "ship-attention"),
        Job("cls", "ship-linear", changes={"head": {"kind": "linear", "channels": 128}}),
        Job("seg", "ship-edge"),
    ]
    rest = [Job(task, row, seed) for seed in range(3) for row in ROWS for task in ("seg", "cls")]
    return [*first, *ship, *(job for job in rest if job not in first)]
