"""The table of docs/accuracy.md from benchmarks/results/foreign.json, and its goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from benchmarks.selection_table import interval

TITLES = {
    "crops": "crops and weeds, 31 images, mIoU",
    "cracks": "cracks in roads, 72 images, mIoU",
    "flowers": "12 kinds of flowers, 576 images, top-1",
}
BEHIND_TEACHER = {"seg": 0.05, "cls": 0.15}
"""Goal: at most so far behind the fine-tuned ImageNet encoder."""
COMMAND = "python -m benchmarks.foreign --clones CLONES"


def table(result: dict[str, Any]) -> str:
    """A row for each set: test scores in percent, and the latencies of both graphs."""
    titles = (
        "data set, images of train",
        "frozen",
        "fine-tuned",
        "the same from random weights",
        "ImageNet encoder, fine-tuned",
        "latency, ms: fine-tuned, encoder",
    )
    lines = [f"| {' | '.join(titles)} |", "|---|---|---|---|---|---|"]
    found = {name: result[name] for name in TITLES if name in result}
    for name, part in found.items():
        rows = (part["rows"].get(row) for row in ("frozen", "finetuned", "finetuned-random", "teacher"))
        ms = f"{part['ms']['finetuned']:.1f}, {part['ms']['teacher']:.1f}" if part["ms"] else ""
        lines.append(f"| {' | '.join([TITLES[name], *map(_percent, rows), ms])} |")
    details = "; ".join(
        f"{name} {part['imgsz']}, {part['samples']:,} images seen, {_seeds(part)}, tap {part['selected'][0]} at "
        f"timestep {part['selected'][1]:g}, measured {part['date']}"
        for name, part in found.items()
    )
    machines = " and ".join(sorted({part["machine"] for part in found.values()}))
    return "\n".join([*lines, "", f"Test split, mean over the seeds; {details}. On {machines}, with `{COMMAND}`."])


def _seeds(part: dict[str, Any]) -> str:
    counts = sorted({len(values) for values in part["rows"].values()})
    return (
        f"{counts[0]} seed{'s' if counts[0] > 1 else ''}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    )


def goals(result: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Title, figure and whether it is met, of every set."""
    for name, part in result.items():
        score = {row: 100 * mean(values) for row, values in part["rows"].items()}
        if {"finetuned", "finetuned-random"} <= set(score):
            pairs = zip(part["rows"]["finetuned"], part["rows"]["finetuned-random"], strict=True)
            yield f"{name}: fine-tuned above the same from random weights", *_gain([a - b for a, b in pairs])
        if {"finetuned", "teacher"} <= set(score):
            most, behind = 100 * BEHIND_TEACHER[part["task"]], score["teacher"] - score["finetuned"]
            title = f"{name}: at most {most:g} points behind the fine-tuned ImageNet encoder"
            yield title, f"{behind:.1f} points", behind <= most


def _gain(gains: Sequence[float]) -> tuple[str, bool]:
    """The paired difference in points, and whether it is above zero: with several seeds, by its 95 % interval."""
    found = interval(gains)
    if len(gains) == 1:
        return f"{100 * found['mean']:+.1f} points", found["mean"] > 0
    figure = f"{100 * found['mean']:+.1f} ± {100 * found['half']:.1f} points, {len(gains)} seeds"
    return figure, found["mean"] > found["half"]


def _percent(values: list[float] | None) -> str:
    return "" if not values else f"{100 * mean(values):.1f} %"
