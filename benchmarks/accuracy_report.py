"""The accuracy benchmark's figures: collected from a working folder, compared with the goals, printed as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.accuracy_rows import ROWS
from benchmarks.harness import stamp
from benchmarks.selection_table import interval

PAIRS = {
    "frozen": ("frozen-random", "frozen-fixed", "frozen-exhaustive"),
    "finetuned": ("finetuned-random", "cnn"),
}
"""The rows that each row is compared with, seed by seed."""
DATA = {"seg": ("CamVid, 11 classes", "test mIoU", "val mIoU"), "cls": ("cub40, 40 birds", "test top-1", "val top-1")}
ASKED = ("task", "backbone", "selection", "taps", "imgsz", "head", "samples", "frozen_samples")


def gather(work: Path) -> dict[str, Any]:
    """All finished results in a task's working folder."""
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))
    rows = {name: row for name in ROWS if (row := _row(work, name))}
    pairs = [
        {"row": name, "against": other, **difference}
        for name, others in PAIRS.items()
        for other in others
        if (difference := _difference(rows.get(name), rows.get(other)))
    ]
    return {
        **stamp(),
        "job": job,
        "rows": rows,
        "pairs": pairs,
        "goals": goals(pairs),
    }


def _row(work: Path, name: str) -> dict[str, Any] | None:
    """Figures of a row over the finished seeds."""
    seeds = {
        path.stem.rpartition("-")[2]: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(work.glob(f"{name}-[0-9]*.json"))
    }
    if not seeds:
        return None
    figures = list(seeds.values())
    return {
        "title": ROWS[name].title,
        "test": interval([one["test"] for one in figures]),
        "val": interval([one["val"] for one in figures]),
        "samples": figures[0]["samples"],
        "seeds": seeds,
    }


def _difference(row: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    """Paired difference over the seeds that both rows have."""
    both = sorted(set(row["seeds"]) & set(other["seeds"])) if row and other else []
    if not row or not other or not both:
        return None
    gains = [row["seeds"][seed]["test"] - other["seeds"][seed]["test"] for seed in both]
    return {"seeds": len(both), "difference": interval(gains)}


def goals(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each goal with its figure; `met` is None if it was not measured or one seed is not sufficient."""
    held = {(pair["row"], pair["against"]): pair for pair in pairs}
    return [
        _above("frozen features above those of random weights", held.get(("frozen", "frozen-random"))),
        _above("fine-tuned above the same architecture from scratch", held.get(("finetuned", "finetuned-random"))),
        _above("fine-tuned above the CNN of the same latency", held.get(("finetuned", "cnn"))),
    ]


def _above(title: str, pair: dict[str, Any] | None) -> dict[str, Any]:
    if pair is None:
        return _goal(title, "", None)
    cell, seeds = pair["difference"], pair["seeds"]
    if seeds == 1:
        return _goal(title, f"{100 * cell['mean']:+.1f} points, one seed", None)
    return _goal(title, f"{_points(cell, signed=True)} points, {seeds} seeds", cell["mean"] - cell["half"] > 0)


def _goal(title: str, figure: str, met: bool | None) -> dict[str, Any]:
    return {"goal": title, "figure": figure, "met": met}


def show(found: dict[str, Any]) -> None:
    """Print everything."""
    for task, result in found.items():
        print("\n" + table(task, result))


def table(task: str, result: dict[str, Any]) -> str:
    """Rows, paired differences and goals of a task as Markdown."""
    what, test, val = DATA[task]
    lines = [f"| {what} | {test} | {val} | seeds | images seen |", "|---|---|---|---|---|"]
    for row in result["rows"].values():
        cells = [_points(row[split]) + " %" for split in ("test", "val")]
        lines.append(f"| {row['title']} | {' | '.join(cells)} | {len(row['seeds'])} | {row['samples']:,} |")
    lines += ["", "| paired over seeds, points | difference |", "|---|---|"]
    for pair in result["pairs"]:
        title = f"{ROWS[pair['row']].title} − {ROWS[pair['against']].title}"
        lines.append(f"| {title} | {_points(pair['difference'], signed=True)} |")
    lines += ["", "| goal | | |", "|---|---|---|"]
    verdicts = {True: "met", False: "missed", None: "not shown"}
    lines += [f"| {one['goal']} | {one['figure']} | {verdicts[one['met']]} |" for one in result["goals"]]
    return "\n".join([*lines, "", caption(result)])


def caption(result: dict[str, Any]) -> str:
    """The conditions of the measurement."""
    job = result["job"]
    text = (
        f"Mean ± half of the 95 % interval over seeds (Student's t). Measured {result['date']} on {result['machine']}, "
        f"with `{command(job)}`."
    )
    cnn = next(iter(result["rows"].get("cnn", {"seeds": {}})["seeds"].values()), None)
    if cnn is None:
        return text
    match = cnn["match"]
    return text + (
        f" The CNN is a MobileNetV2 {'U-Net ' if job['task'] == 'seg' else ''}of width {match['width']:.2f}: "
        f"{match['cnn_ms']:.1f} ms per image, compared with {match['dit_ms']:.1f} ms for the deployed "
        f"fp32 graph, in interleaved runs on ONNX Runtime, {match['threads']} threads."
    )


def command(job: dict[str, Any]) -> str:
    """The command line that produced a working folder's rows."""
    options = [f"--{name.replace('_', '-')} {job[name]}" for name in ASKED if job[name]]
    return " ".join(["python -m benchmarks.accuracy", *options])


def _points(cell: dict[str, float], signed: bool = False) -> str:
    mean = f"{100 * cell['mean']:{'+' if signed else ''}.1f}"
    return f"{mean} ± {100 * cell['half']:.1f}" if cell["half"] else mean  # one seed has no interval
