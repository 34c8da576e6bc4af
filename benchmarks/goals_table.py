"""The goals that are missed or not decided, of every benchmark that has goals, as one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import foreign_table, int8_table, selection_table
from benchmarks.graph_table import LIMITS

START_GOAL = 0.40
"""Seconds from the start of a process to its first result."""
MIOU_GOAL = 0.50
SPEED_GOAL = 40.0
"""Frames per second of the included `seg` in INT8 on two cores."""
INT8_DROP_GOAL = 0.003
EFFICIENCY_GOAL = 0.80
"""Frames per second of aselect-run with overlay and lines over those of the session alone, 720p, 5 ms a frame."""
EFFICIENCY = "aselect-run, 720p, 5 ms, over the raw rate"
STILL_GOAL = 0.15
"""CPU time with --skip-still 0.01 over that without, on a scene in which nothing moves."""
STILL = "static street, --skip-still 0.01, CPU time / that of inferring every frame"

REGRET_GOAL = 0.01
"""Of the strategies that `aselect-select` uses by default, with and without labels."""
DROP_GOAL = 0.01
"""Of mIoU; also the default of `aselect-export --max-drop` for an encoder."""

Row = tuple[str, str, str]
"""Benchmark, goal, figure."""


def table(results: dict[str, dict[str, Any]]) -> str:
    """The missed goals as Markdown; `results` has the content of each result's file by its name."""
    found = [
        *_accuracy(results),
        *_foreign(results),
        *_selection(results),
        *_included(results),
        *_start(results),
        *_runtime(results),
        *_encoder_drop(results),
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
                yield "accuracy", f"`{task}`: {goal['goal']}", goal["figure"] + undecided


def _selection(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for name, title in selection_table.NAMES.items():
        rows = results.get("selection", {}).get(name, {}).get("rows", {})
        for strategy in ("probe", "smallest-sigma"):
            regret = rows.get(strategy, {}).get("regret")
            if regret is not None and regret["mean"] > REGRET_GOAL:
                goal = f"`{strategy}`, {title}: at most {100 * REGRET_GOAL:g} point below the exhaustive search"
                yield "selection", goal, f"{100 * regret['mean']:.1f} ± {100 * regret['half']:.1f}"


def _foreign(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for goal, figure, met in foreign_table.goals(results.get("foreign", {})):
        if not met:
            yield "foreign", goal, figure


def _included(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    if "models" not in results:
        return
    seg = results["models"]["models"]["seg"]
    if (score := seg["score"]["fp32"]) < MIOU_GOAL:
        yield "models", f"`seg`, the included model: at least {MIOU_GOAL:.2f} mIoU", f"{100 * score:.1f} %"
    if (drop := score - seg["score"]["int8"]) > INT8_DROP_GOAL:
        yield (
            "models",
            f"`seg`, INT8: at most {100 * INT8_DROP_GOAL:.1f} points of test mIoU",
            f"{100 * drop:.2f} points",
        )
    if (speed := 1e3 / seg["latency [ms]"]["int8"]) < SPEED_GOAL:
        yield "models", f"`seg`, INT8: at least {SPEED_GOAL:.0f} frames/s on two cores", f"{speed:.1f}"


def _start(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    seconds = results["main_job"]["figures"]["process start to first result [s]"]
    if seconds > START_GOAL:
        yield "main_job", f"process start to first result: at most {START_GOAL:.2f} s", f"{seconds:.2f} s"


def _runtime(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    parts = results.get("runtime", {})
    efficiency = parts.get("efficiency", {}).get("figures", {}).get(EFFICIENCY)
    if efficiency is not None and efficiency < EFFICIENCY_GOAL:
        goal = "720p, 5 ms a frame, overlay and lines: at least 0.80 of the session's own rate"
        yield "runtime efficiency", goal, f"{efficiency:.2f}"
    still = parts.get("still", {}).get("figures", {}).get(STILL)
    if still is not None and still > STILL_GOAL:
        yield "runtime still", f"CPU time, still scene: at most {STILL_GOAL:.2f} of that without", f"{still:.2f}"


def _encoder_drop(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    found = results.get("encoder_drop", {}).get("figures", {})
    if found:
        drop = found["full encoder, val mIoU"] - found["stem, head from labels too, val mIoU"]
        if drop > DROP_GOAL:
            goal = f"a distilled stem loses at most {100 * DROP_GOAL:.0f} point of mIoU (the export refuses it beyond)"
            yield "encoder_drop", goal, f"{100 * drop:.1f} points"


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
                figure = "not measured" if value is None else f"{value:.3g}"
                yield "families", f"{found['title']}: {name}, at most {goal:g}", figure


def _int8(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    if "int8" in results:
        missed = [goal for goal in int8_table.goals(results["int8"]) if not goal.met]
        undecided = {None: ", not decided", False: ""}
        yield from (("int8", goal.title, (goal.figure or "not measured") + undecided[goal.met]) for goal in missed)


def recorded(folder: Path) -> list[str]:
    """Names of the results in a folder that have goals."""
    names = ("accuracy", "foreign", "selection", "models", "main_job", "runtime", "encoder_drop", "graph")
    return [name for name in (*names, "families", "int8") if (folder / f"{name}.json").is_file()]
