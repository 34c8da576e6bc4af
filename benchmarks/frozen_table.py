"""The table of docs/pretraining.md from benchmarks/results/frozen.json."""

from __future__ import annotations

from typing import Any

from benchmarks.selection_table import interval

NAMES = {"cub40": "cub40 test top-1", "camvid": "CamVid test mIoU over tokens"}


def table(result: dict[str, Any]) -> str:
    """Every tap of every data set: trained, random, and the difference with its interval over the random weights."""
    parts = [_data_set(NAMES[name], result[name]) for name in NAMES if name in result]
    return "\n\n".join([*parts, *([_control(result)] if "control" in result else [])])


def _control(result: dict[str, Any]) -> str:
    """Two pretraining runs of the same small budget, with a teacher and without, beside random weights."""
    part = result["control"]
    lines = ["| | with the teacher | without | random weights |", "|---|---|---|---|"]
    for name, title in NAMES.items():
        for tap, value in part[name]["taught"].items():
            random = interval(result[name]["scores"]["random"][tap])["mean"]
            cells = [f"{title}, `{tap}`", _percent(value), _percent(part[name]["alone"][tap]), _percent(random)]
            lines.append(f"| {' | '.join(cells)} |")
    caption = (
        f"%, {part['images']:,} images each, in batches of {part['batch']}, one run each. Measured {part['date']} on "
        f"{part['machine']}, with `python -m benchmarks.frozen --control runs/taught runs/alone`."
    )
    return "\n".join([*lines, "", caption])


def _data_set(title: str, part: dict[str, Any]) -> str:
    job, scores = part["job"], part["scores"]
    seeds = len(next(iter(scores["random"].values())))
    lines = [f"| {title}, % | trained | random weights | difference, points |", "|---|---|---|---|"]
    for tap, value in scores["trained"].items():
        random = interval(scores["random"][tap])
        beyond = {**random, "mean": value - random["mean"]}
        cells = [f"`{tap}`", _percent(value), _spread(random, seeds), _spread(beyond, seeds)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| teacher, {name} | {_percent(value)} | | |" for name, value in scores.get("teacher", {}).items()]
    mirrored = " and its mirrored images" if job["mirrored"] else ""
    spread = "random weights: mean over the seeds ± half of the 95 % interval"
    if seeds == 1:
        spread = "one set of random weights, so no interval"
    caption = (
        f"{job['imgsz'][0]}x{job['imgsz'][1]}, timestep {job['timestep']:g}, fitted on train{mirrored}; {spread}. "
        f"Measured {part['date']} on {part['machine']}, with `python -m benchmarks.frozen --seeds {seeds}`."
    )
    return "\n".join([*lines, "", caption])


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _spread(cell: dict[str, float], seeds: int) -> str:
    return _percent(cell["mean"]) + (f" ± {100 * cell['half']:.1f}" if seeds > 1 else "")
