"""The table of `seg` at other input sizes, from the result of `python -m benchmarks.input_size`."""

from __future__ import annotations

from typing import Any

from benchmarks.models_table import IDLE_LOAD


def table(result: dict[str, Any]) -> str:
    """One row for each size, and how it was measured."""
    idle = result["load"] <= IDLE_LOAD
    lines = ["| `--imgsz` | mIoU, CamVid val | test | latency, FP32 |", "|---|---|---|---|"]
    for size, found in result["sizes"].items():
        latency = f"{found['latency [ms]']:.0f} ms" if idle else "–"
        lines.append(f"| {size} | {100 * found['val']:.1f} % | {100 * found['test']:.1f} % | {latency} |")
    caption = (
        f"`seg` was trained at 288x384. Measured {result['date']} on {result['machine']}, ONNX Runtime, "
        f"{result['threads']} threads, with `python -m benchmarks.input_size`."
    )
    if not idle:
        caption += " Latencies are missing because other programs used the machine."
    return "\n".join([*lines, "", caption])
