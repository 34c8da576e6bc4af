"""The goals that are missed or not decided, of every benchmark that has goals, as one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import int8_table
from benchmarks.graph_table import LIMITS

START_GOAL = 0.40
"""Seconds from the start of a process to its first result."""
MIOU_GOAL = 0.50

Row = tuple[str, str, str]
"""Benchmark, goal, figure."""


def table(results: dict[str, dict[str, Any]]) -> str:
    """The missed goals as Markdown; `results` has the content of each result's file by its name."""
    found = [
        *_accuracy(results),
        *_included(results),
        *_start(results),
        *_graph(results),
        *_families(results),
        *_int8(results),
    ]
    rows = [f"| `python -m benchmarks.{command}` | {goal} | {figure} |" for command, goal, figure in found]
    return "\n".join(["| benchmark | goal | measured |", "|---|---|---|", *rows])


def _accuracy(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for task, found in results.get("accuracy", {}).items():
        for goal in found["goals"]:
            if not goal["met"]:
                undecided = ", not decided" if goal["met"] is None else ""
                yield "accuracy", f"`{task}`, former backbone: {goal['goal']}", goal["figure"] + undecided


def _included(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    if "models" in results and (score := results["models"]["models"]["seg"]["score"]["fp32"]) < MIOU_GOAL:
        yield "models", f"`seg`, the included model: at least {MIOU_GOAL:.2f} mIoU", f"{100 * score:.1f} %"


def _start(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    seconds = results["main_job"]["figures"]["process start to first result [s]"]
    if seconds > START_GOAL:
        yield "main_job", f"process start to first result: at most {START_GOAL:.2f} s", f"{seconds:.2f} s"


def _graph(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for name, found in results.get("graph", {}).get("models", {}).items():
        for figure, value in found["goals"].items():
            limit, only = LIMITS[figure]
            if value > limit and only in (None, name):
                yield "graph", f"{found['title']}: {figure}, at most {limit:.2f}", f"{value:.2f}"


def _families(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for found in results.get("families", {}).get("families", {}).values():
        for name, goal in found["goals"].items():
            value = found["figures"].get(name)
            if value is None or value > goal:
                figure = "not measured" if value is None else f"{value:.2g}"
                yield "families", f"{found['title']}: {name}, at most {goal:g}", figure


def _int8(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    if "int8" in results:
        missed = [goal for goal in int8_table.goals(results["int8"]) if not goal.met]
        undecided = {None: ", not decided", False: ""}
        yield from (("int8", goal.title, (goal.figure or "not measured") + undecided[goal.met]) for goal in missed)


def recorded(folder: Path) -> list[str]:
    """Names of the results in a folder that have goals."""
    names = ("accuracy", "models", "main_job", "graph", "families", "int8")
    return [name for name in names if (folder / f"{name}.json").is_file()]
