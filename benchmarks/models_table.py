"""The table of the included models in README, from the result of `python -m benchmarks.models`."""

from __future__ import annotations

from typing import Any

ROWS = {
    "seg": (
        "street scenes, {classes} classes per pixel",
        "{score} % mIoU, CamVid test",
        "367 frames of CamVid, drawn streets",
    ),
    "cls": ("birds, {classes} classes per image", "{score} % top-1, cub40 test", "1,000 images of CUB"),
}
"""Task -> what the model predicts, its accuracy, and what it was trained on."""
COLUMNS = (
    "model",
    "task",
    "input",
    "accuracy, FP32 / INT8",
    "parameters",
    "ONNX file, FP32 / INT8",
    "latency, FP32 / INT8",
    "trained on",
)
METRICS = {"seg": "% mIoU, CamVid", "cls": "% top-1, cub40"}
IDLE_LOAD = 1.0
"""Load average from which on other programs have slowed the measurement, so that its latencies are not shown."""


def table(result: dict[str, Any]) -> str:
    """One row for each model, and how it was measured."""
    head = f"| {' | '.join(COLUMNS)} |"
    rows = [_row(task, found, _idle(result)) for task, found in result["models"].items()]
    caption = (
        f"Measured {result['date']} on {result['machine']}, no GPU, ONNX Runtime, {result['threads']} threads, with "
        "`python -m benchmarks.models`."
    )
    if not _idle(result):
        caption += (
            " Latencies are missing because other programs used the machine; `python -m benchmarks.models --latency` "
            "adds them."
        )
    return "\n".join([head, "|" + "---|" * len(COLUMNS), *rows, "", caption])


def alternative(result: dict[str, Any], trained: list[dict[str, Any]]) -> str:
    """The included models beside the encoder that taught their backbone, as the first of the `trained` rows has it."""
    lines = ["| | test | input | latency, FP32 |", "|---|---|---|---|"]
    for task, found in result["models"].items():
        taught = next(row for row in trained if (row["task"], row["row"]) == (task, "teacher"))
        rows = (
            (f"`{task}`", found["score"]["fp32"], found["size"], found["latency [ms]"]["fp32"]),
            ("ImageNet encoder, same head", taught["test"], taught["imgsz"], found["encoder latency [ms]"]),
        )
        for title, score, (height, width), ms in rows:
            latency = f"{ms:.1f} ms" if _idle(result) else "–"
            lines.append(f"| {title} | {100 * score:.1f} {METRICS[task]} | {height}x{width} | {latency} |")
    caption = (
        f"Latencies measured {result['date']} on {result['machine']}, {result['threads']} threads, with "
        "`python -m benchmarks.models`. The encoder was fine-tuned in the runs of [gpu-run-seg.json](gpu-run-seg.json) "
        "and [gpu-run.json](gpu-run.json)."
    )
    return "\n".join([*lines, "", caption])


def _row(task: str, found: dict[str, Any], idle: bool) -> str:
    what, accuracy, data = ROWS[task]
    height, width = found["size"]
    cells = [
        f"`{task}`",
        what.format(classes=found["classes"]),
        f"{height}x{width}",
        accuracy.format(score=_both(found["score"], 100, ".1f")),
        f"{found['parameters'] / 1e6:.1f} M",
        f"{_both(found['bytes'], 1e-6, '.1f')} MB",
        f"{_both(found['latency [ms]'], 1, '.0f')} ms" if idle else "–",
        data,
    ]
    return f"| {' | '.join(cells)} |"


def _idle(result: dict[str, Any]) -> bool:
    return float(result["load"]) <= IDLE_LOAD


def _both(values: dict[str, float], factor: float, form: str) -> str:
    return " / ".join(f"{factor * values[name]:{form}}" for name in ("fp32", "int8"))
