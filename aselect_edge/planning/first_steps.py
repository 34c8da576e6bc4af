"""From what is in a folder to the commands that train on it: what `aselect-init` says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aselect_edge.data.survey import Survey, survey
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.planning.forecast import Forecast, Work, forecast
from aselect_edge.training.comparison import compare
from aselect_edge.training.goal import open_goal
from aselect_edge.training.recipe import HEADS, RECIPES
from aselect_runtime.errors import InputError
from aselect_runtime.files import shell_word
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import ClassInfo, HeadSpec, Resize, Task

AREA: dict[Task, int] = {"seg": 216 * 288, "cls": 128 * 128}
"""Pixels of the input that a first run is fast at."""
MULTIPLE = 16
"""Of which the shipped backbone needs height and width: its patch."""
FEW_IMAGES = 100
"""With fewer training images a linear head is offered, which has the fewest parameters to fit."""

FEWEST = 16
"""Images that INT8 needs to calibrate on."""


@dataclass(frozen=True)
class Plan:
    """The commands for a folder, in their order, and why they have the options that they have."""

    commands: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    task: Task | None = None
    imgsz: tuple[int, int] | None = None
    head: HeadSpec | None = None


@dataclass(frozen=True)
class FirstSteps:
    """What a folder holds, what to type, and how long that takes; no estimate where nothing can be trained."""

    found: Survey
    plan: Plan
    forecast: Forecast | None
    reference: Figures | None
    """Of a small ImageNet encoder on these data, where its weights are installed."""


def first_steps(
    data: Path,
    task: Task | None = None,
    *,
    estimate: bool = True,
    threads: int | None = None,
    progress: Progress = silent,
) -> FirstSteps:
    """Look at a folder, plan the commands, and with `estimate` measure a few batches; raises InputError.

    The commands have `threads`, if it is given; the estimate is for the threads that torch has.
    """
    progress("looking at images and labels", 0.0)
    found = survey(data, task)
    steps = plan(found, threads)
    if not estimate:
        return FirstSteps(found, steps, None, None)
    progress("measuring a few batches", 0.5)
    return FirstSteps(found, steps, _forecast(found, steps), _reference(found, steps))


def _reference(found: Survey, steps: Plan) -> Figures | None:
    if steps.task is None or steps.imgsz is None:
        return None
    try:
        goal = open_goal(steps.task, found.data, RECIPES[steps.task])
        return compare(steps.task, goal, steps.imgsz, Resize())
    except InputError:  # a faulty label, which the survey names
        return None


def _forecast(found: Survey, steps: Plan) -> Forecast | None:
    if found.train is None or steps.task is None or steps.imgsz is None or steps.head is None:
        return None
    classes = tuple(ClassInfo(name=each.name, colour=(0, 0, 0)) for each in found.train.classes)
    val = sum(split.images for split in found.splits if split.name == "val")
    train, examples = found.train.images, found.train.examples
    return forecast(Work(steps.task, found.data, examples, train, val, classes, steps.imgsz, steps.head))


def plan(found: Survey, threads: int | None = None) -> Plan:
    """The commands for what was found; those of a folder without labels, or with labels that cannot be read, differ."""
    data, train = shell_word(found.data), found.train
    if found.task is None and found.images:
        return Plan(
            _with_threads(
                (f"aselect-select shipped --data {data} --strategy hfr-signal --out selection.json",), threads
            ),
            ("labels are needed to train: draw polygons with LabelMe, or sort the images into a folder per class",),
        )
    if found.task is None or train is None or found.refused:
        return Plan((f"aselect-init {data}",), ("correct what is listed above, then run it again",))
    task, few = found.task, train.images < FEW_IMAGES
    imgsz = input_size(train.sizes, task)
    head = HeadSpec(kind="linear", channels=HEADS[task].channels) if few else HEADS[task]
    reasons = [f"{imgsz[0]}x{imgsz[1]}: the shape of your images, small enough for a fast first run"]
    if task == "seg":
        reasons.append("a larger --imgsz shows smaller things, and takes as much longer as it has more pixels")
    if few:
        more = f"--head {HEADS[task].kind} --finetune"
        reasons.append(f"linear head: {train.images} images are few and it is fast; {more} takes longer, compare it")
    commands = _with_threads(_commands(found, data, task, imgsz, head), threads)
    return Plan(commands, tuple(reasons), task, imgsz, head)


def _with_threads(commands: tuple[str, ...], threads: int | None) -> tuple[str, ...]:
    if threads is None:
        return commands
    return tuple(line if line.startswith("aselect-run") else f"{line} --threads {threads}" for line in commands)


def _commands(found: Survey, data: str, task: Task, imgsz: tuple[int, int], head: HeadSpec) -> tuple[str, ...]:
    size, bundle, exported = "{}x{}".format(*imgsz), f"my-{task}", f"my-{task}-exported"
    splits = {split.name: split for split in found.splits}
    last = splits.get("test", splits.get("val", splits["train"]))
    image = shell_word(last.examples[0])
    kind = "" if head == HEADS[task] else f" --head {head.kind}"
    precision = "int8" if splits["train"].images >= FEWEST else "fp32"
    shared = f"--data {data} --imgsz {size}"
    return (
        f"aselect-select shipped --task {task} --strategy probe {shared} --out selection.json",
        f"aselect-train --task {task} --backbone shipped --selection selection.json {shared}{kind} --out {bundle}",
        f"aselect-eval {bundle} --data {data} --split {last.name}",
        f"aselect-export --model {bundle} --precision {precision} --data {data} --out {exported}",
        f"aselect-run {exported} {image} --output overlay.png",
    )


def input_size(sizes: Sequence[tuple[int, int]], task: Task) -> tuple[int, int]:
    """Height and width of the input: the shape of the most frequent size, in AREA pixels or the image's if fewer."""
    height, width = sizes[0]
    scale = math.sqrt(min(AREA[task], height * width) / (height * width))
    rows, columns = (max(2, round(side * scale / MULTIPLE)) * MULTIPLE for side in (height, width))
    return rows, columns
