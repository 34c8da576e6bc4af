"""The INT8 benchmark's figures compared with the goals and printed as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.int8_amdahl import VNNI_GAIN
from benchmarks.int8_quantisers import PEERS, ROOT, TITLES
from benchmarks.int8_xl import XL_BLOCKS

PAGE = ROOT / "docs" / "int8.md"
RESULTS = ROOT / "benchmarks" / "results"
MOST_POINTS = 0.3
LEAST_OF_LIMIT = 0.80
LEAST_XL_GAIN = 1.8
MOST_BYTES = 0.30
FRAMES, MOST_SECONDS, MOST_MB = 128, 120, 2000


class Goal(NamedTuple):
    """A goal with its figure; `met` is None if this run cannot decide it."""

    title: str
    figure: str
    met: bool | None


def table(record: dict[str, Any]) -> str:
    """All tables as Markdown."""
    parts = [task_table(task) for task in record["tasks"].values()]
    xl = record["xl"]
    lines = [
        f"- DiT-XL/2's blocks ({xl['blocks']} of them, 256 tokens): {_xl_gain(xl):.2f} times as fast as FP32, "
        f"{xl['bytes']['ours'] / xl['bytes']['fp32']:.3f} of its bytes.",
        *(f"- {reason}." for reason in record["skipped"].values()),
        "",
        f"Measured {record['date']} on {record['machine']}, ONNX Runtime {record['onnxruntime']}, "
        f"{record['threads']} thread(s), with `{_command(record)}`.",
        "",
        "| goal | | |",
        "|---|---|---|",
    ]
    verdicts = {True: "met", False: "missed", None: "not shown"}
    lines += [f"| {goal.title} | {goal.figure} | {verdicts[goal.met]} |" for goal in goals(record)]
    return "\n\n".join([*parts, "\n".join(lines)])


def _command(record: dict[str, Any]) -> str:
    peers = any(PEERS.keys() & task["rows"].keys() for task in record["tasks"].values())
    return "python -m benchmarks.int8" + (" --peers" if peers else "")


def task_table(task: dict[str, Any]) -> str:
    """The rows of a task, and further figures below them."""
    rows, exact = task["rows"], task["rows"]["fp32"]
    lines = [
        f"| INT8 of the shipped model | {task['metric']} | drop [points] | latency / FP32 | bytes / FP32 | "
        "calibration | peak memory | frames |",
        "|---|---|---|---|---|---|---|---|",
        f"| FP32 | {100 * exact['score']:.2f} % | | 1 ({exact['latency_ms']:.1f} ms) | "
        f"1 ({exact['bytes'] / 1e6:.2f} MB) | | | |",
    ]
    for row, title in TITLES.items():
        if row in rows:
            one = rows[row]
            lines.append(
                f"| {title} | {100 * one['score']:.2f} % | {_drop(task, row):.2f} | "
                f"{one['latency_ms'] / exact['latency_ms']:.2f} | {one['bytes'] / exact['bytes']:.3f} | "
                f"{one['seconds']:.0f} s | {one['peak_mb']:.0f} MB | {one['frames']} |"
            )
        elif row in task["skipped"]:
            lines.append(f"| {title} | {task['skipped'][row]} | | | | | | |")
    amdahl = task["amdahl"]
    lines += [
        "",
        f"- Scored on {task['images']} test images; ours gives {task['frames_per_second']['ours']:.1f} frames/s.",
        f"- Products with weights take {100 * amdahl['share_of_products']:.0f} % of the FP32 graph's time in ONNX "
        f"Runtime's profile. At {VNNI_GAIN} times their speed the latency ratio would be "
        f"{amdahl['latency_ratio_limit']:.2f}; ours reaches {100 * _of_limit(task):.0f} % of that.",
        _export_line(task["export"]),
    ]
    return "\n".join(lines)


def goals(record: dict[str, Any]) -> Iterator[Goal]:
    """The goals for INT8, task by task, and on the shape of DiT-XL/2."""
    for task in record["tasks"].values():
        yield _accuracy_goal(task)
        limit, reached = task["amdahl"]["latency_ratio_limit"], _of_limit(task)
        yield Goal(
            f"{task['metric']}: latency at least {100 * LEAST_OF_LIMIT:.0f} % of the Amdahl limit",
            f"{100 * reached:.0f} % of the ratio {limit:.2f}",
            reached >= LEAST_OF_LIMIT,
        )
        ours, exact = task["rows"]["ours"], task["rows"]["fp32"]
        share = ours["bytes"] / exact["bytes"]
        title = f"{task['metric']}: at most {MOST_BYTES:.2f} of FP32's bytes"
        yield Goal(title, f"{share:.3f}", share <= MOST_BYTES)
        within = ours["seconds"] < MOST_SECONDS and ours["peak_mb"] < MOST_MB
        yield Goal(
            f"{task['metric']}: calibration on {FRAMES} frames under {MOST_SECONDS} s and {MOST_MB} MB",
            f"{ours['seconds']:.0f} s, {ours['peak_mb']:.0f} MB, {ours['frames']} frames",
            within if ours["frames"] >= FRAMES else None,
        )
    gain, blocks = _xl_gain(record["xl"]), record["xl"]["blocks"]
    yield Goal(
        f"DiT-XL/2's shape: at least {LEAST_XL_GAIN} times as fast as FP32",
        f"{gain:.2f} times, {blocks} blocks",
        gain >= LEAST_XL_GAIN if blocks >= XL_BLOCKS else None,
    )


def _accuracy_goal(task: dict[str, Any]) -> Goal:
    """Reaching the goal is only evidence if the defaults lose more than it, on the whole split."""
    title = f"{task['metric']}: drop at most {MOST_POINTS} points where onnxruntime's defaults lose more"
    ours = _drop(task, "ours")
    if "ort_default" not in task["rows"]:
        return Goal(title, f"{ours:.2f} points; no defaults", None)
    defaults = _drop(task, "ort_default")
    telling = task["whole_split"] and (ours > MOST_POINTS or defaults > MOST_POINTS)
    figure = f"{ours:.2f} compared with {defaults:.2f} points, {task['images']} images"
    return Goal(title, figure, ours <= MOST_POINTS if telling else None)


def _drop(task: dict[str, Any], row: str) -> float:
    """Percentage points lost relative to FP32."""
    return 100.0 * float(task["rows"]["fp32"]["score"] - task["rows"][row]["score"])


def _of_limit(task: dict[str, Any]) -> float:
    """The share of the Amdahl limit's speed that ours reaches."""
    fastest = task["amdahl"]["latency_ratio_limit"] * task["rows"]["fp32"]["latency_ms"]
    return float(fastest / task["rows"]["ours"]["latency_ms"])


def _xl_gain(xl: dict[str, Any]) -> float:
    return float(xl["latency_ms"]["fp32"] / xl["latency_ms"]["ours"])


def _export_line(export: dict[str, Any]) -> str:
    took = f"- The whole export with every gate takes {export['seconds']:.0f} s"
    if "failed" in export:
        return f"{took} and writes nothing: {export['failed']}"
    return (
        f"{took}; validation {export['metric']} {100 * export['val_fp32']:.2f} % in FP32, "
        f"{100 * export['val_int8']:.2f} % in INT8, {len(export['given_back'])} layers given back."
    )


def write_docs(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Write the committed figures into docs/int8.md: of the included bundles, and of earlier ones with all peers."""
    _write(page, "figures", results / "int8.json")
    _write(page, "peers", results / "int8-peers.json")


def _write(page: Path, place: str, result: Path) -> None:
    record = json.loads(result.read_text(encoding="utf-8"))
    opening, closing = f"<!-- {place}: python -m benchmarks.int8 --write -->", "<!-- end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(opening)
    after = rest.partition(closing)[2]
    page.write_text(f"{before}{opening}\n{table(record)}\n{closing}{after}", encoding="utf-8")
