"""aselect-init: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aselect_edge.commands.threads import Threads, use_threads
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Verbose
from aselect_runtime.progress import terminal_progress
from aselect_runtime.records import Task

if TYPE_CHECKING:
    from aselect_edge.data.survey import SplitSurvey, Survey
    from aselect_edge.planning.first_steps import FirstSteps

SHOWN = 12
"""Classes that are listed."""


def _init(
    data: Annotated[Path, typer.Argument(help="A folder of images, with labels or without.")],
    task: Annotated[Task | None, typer.Option(help="seg or cls, where a folder has labels of both.")] = None,
    no_estimate: Annotated[
        bool, typer.Option("--no-estimate", help="Measure no batches: no estimate of times, an answer at once.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Look at a folder of images, say what is in it, and print the commands that train on it."""
    from aselect_edge.planning.first_steps import first_steps

    use_threads(threads)
    with terminal_progress() as progress:
        steps = first_steps(data, task, estimate=not no_estimate, threads=threads, progress=progress)
    if as_json:
        print(json.dumps(to_dict(steps)))
    else:
        print("\n".join(_report(steps)))


def to_dict(steps: FirstSteps) -> dict[str, Any]:
    """What --json prints: `found`, `plan`, `forecast` and `reference` with their fields, paths as text."""
    head = steps.plan.head
    reference = steps.reference
    fields = asdict(replace(steps, plan=replace(steps.plan, head=None), reference=None))
    fields["reference"] = {reference.metric: reference.score} if reference else None
    fields["plan"]["head"] = head.kind if head else None
    return json.loads(json.dumps(fields, default=str))


def _report(steps: FirstSteps) -> list[str]:
    found = steps.found
    lines = _found(found)
    for split in found.splits:
        lines += _split(split, found.task)
    if found.unreadable:
        names = ", ".join(path.name for path in found.unreadable[:3])
        lines.append(f"{len(found.unreadable)} images do not decode and are left out: {names}")
    lines += [f"warning: {problem}" for problem in found.problems]
    lines += ["", "Commands:", *(f"  {command}" for command in steps.plan.commands)]
    lines += [f"  # {reason}" for reason in steps.plan.reasons]
    return [*lines, *_times(steps)]


def _found(found: Survey) -> list[str]:
    if found.task is None:
        return [f"{found.data}: {found.images} images, no labels that are understood"]
    what = {"seg": "segmentation", "cls": "classification"}[found.task]
    return [f"{found.data}: {what}, layout {found.layout}; read as it is, nothing to convert"]


def _split(split: SplitSurvey, task: Task | None) -> list[str]:
    sizes = ", ".join(f"{height}x{width}" for height, width in split.sizes[:3])
    more = f" and {len(split.sizes) - 3} other sizes" if len(split.sizes) > 3 else ""
    held = ", held out of train" if split.held_out else ""
    lines = [f"  {split.name}: {split.images} images{held}, {sizes}{more} (height x width)"]
    if split.name == "train":
        unit = f"images of {split.looked_at} looked at" if task == "seg" else "images"
        width = max((len(each.name) for each in split.classes[:SHOWN]), default=0)
        for each in split.classes[:SHOWN]:
            share = f", {each.share:.1%} of the pixels" if task == "seg" else ""
            lines.append(f"    {each.name:<{width}}  {each.images} {unit}{share}")
        if len(split.classes) > SHOWN:
            lines.append(f"    and {len(split.classes) - SHOWN} more classes")
    return lines


def _times(steps: FirstSteps) -> list[str]:
    from aselect_edge.training.comparison import told
    from aselect_runtime.pace import duration

    found: Any = steps.forecast
    if found is None:
        return []
    lines = [
        f"  # on this machine: select {duration(found.select_seconds)}, train "
        f"{duration(found.feature_seconds + found.train_seconds)}, of which features of {found.views} views "
        f"{duration(found.feature_seconds)}; Ctrl-C stops either, the same command resumes"
    ]
    need, free = found.cache_bytes / 1e9, found.free_bytes / 1e9
    short = "" if need < free else "; free space, or keep them elsewhere with --cache"
    if steps.reference:
        lines.append(f"  # {told(steps.reference)}: train further if yours stays below")
    return [*lines, f"  # disk: {need:.2f} GB for the features, {free:.1f} GB are free{short}"]


init = entry(_init, examples=["aselect-init DATA", "aselect-init DATA --task cls --json"])
