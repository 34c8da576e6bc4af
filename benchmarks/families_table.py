"""The table of docs/families.md, from the result of `python -m benchmarks.families`."""

from __future__ import annotations

from typing import Any

from benchmarks.family_models import SHAPES


def table(result: dict[str, Any]) -> str:
    """Bytes, fold error, memory and engine of each family, and latency where it was measured; missed goals in bold."""
    timed = any("latency" in found["figures"] for found in result["families"].values())
    names = ["tap", "bytes", "of the plain export (goal)", "fold error", "peak memory of the export / bytes", "engine"]
    names += ["latency, of the whole model's in PyTorch"] if timed else []
    head = ["| " + " | ".join(["family", *names]) + " |", "|---" * (len(names) + 1) + "|"]
    rows = [_row(found, timed) for found in result["families"].values()]
    versions = ", ".join(
        f"{name} {result['versions'][name]}"
        for name in ("torch", "onnxruntime", "tensorrt-rtx")
        if name in result["versions"]
    )
    command = f"python -m benchmarks.families{'' if timed else ' --no-latency'}"
    caption = f"Measured {result['date']} on {result['machine']}, no GPU, {versions}, with `{command}`. "
    caption += "Goals: fold error at most 1e-5, peak memory at most 2.5 times the bytes written"
    caption += ", latency at most 0.40; missed ones are bold." if timed else "; missed ones are bold."
    if not timed:
        caption += " Latencies were not measured: the machine was not idle."
    missing = [shape.title for key, shape in SHAPES.items() if key not in result["families"]]
    caption += f" Not measured yet: {'; '.join(missing)}." if missing else ""
    return "\n".join([*head, *rows, "", caption])


def _row(found: dict[str, Any], timed: bool) -> str:
    figures, goals = found["figures"], found["goals"]

    def shown(name: str, form: str) -> str:
        text = format(figures[name], form)
        return text if figures[name] <= goals[name] else f"**{text}**"

    cells = [
        f"{found['title']}{f' ({note})' if (note := found['note']) else ''}",
        found["tap"],
        f"{figures['bytes'] / 1e6:,.0f} MB",
        f"{shown('bytes / plain', '.2f')} ({goals['bytes / plain']:.2f})",
        shown("fold error", ".0e"),
        shown("peak / bytes", ".2f"),
        f"{figures['engine bytes'] / 1e6:,.0f} MB",
    ]
    if timed:
        whole, ours = figures.get("latency, whole [ms]", 0), figures.get("latency [ms]", 0)
        cells.append(f"{shown('latency', '.2f')} ({whole:,.0f} to {ours:,.0f} ms)" if whole else "not measured")
    return f"| {' | '.join(cells)} |"
