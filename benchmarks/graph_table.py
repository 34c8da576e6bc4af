"""The table of docs/graph.md, from the result of `python -m benchmarks.graph`."""

from __future__ import annotations

from typing import Any

from benchmarks.graph import TITLES

LIMITS: dict[str, tuple[float, str | None]] = {
    "(d) / (a), latency": (0.40, "xl"),
    "(d) / (c), latency": (1.0, None),
    "(d) / (c), bytes": (0.60, None),
    "ours on its best backend / limit of its type": (1.3, None),
}
"""Ratio -> the most that it may be, and the only model that this is the goal for, or None for all."""


def table(result: dict[str, Any]) -> str:
    """Latency, bytes and peak memory of each model, the target ratios, and the cost of the export."""
    parts = [_model(found) for found in result["models"].values()]
    caption = (
        f"Measured {result['date']} on {result['machine']}, {result['threads']} threads, no GPU, with "
        "`python -m benchmarks.graph`; medians over rounds of processes of their own."
    )
    return "\n\n".join([*parts, caption])


def _model(found: dict[str, Any]) -> str:
    first = found["variants"]["eager"]["latency [ms]"]
    head = [
        f"| {found['title']} | latency | of (a) | weights | peak memory |",
        "|---|---|---|---|---|",
    ]
    rows = [
        f"| {TITLES[name]} | {row['latency [ms]']:,.0f} ms | {row['latency [ms]'] / first:.2f} "
        f"| {row['bytes'] / 1e6:,.0f} MB | {row['peak [MB]']:,.0f} MB |"
        for name, row in found["variants"].items()
    ]
    limit = found["limit"]
    for kind in ("f32", "bf16"):
        if f"{kind} [ms]" in limit:
            rows.append(f"| limit: the products alone, {kind} | {limit[f'{kind} [ms]']:,.0f} ms | | | |")
    goals = [f"- {name}: {value:.2f} (goal: at most {_goal(name)})" for name, value in found["goals"].items()]
    return "\n".join([*head, *rows, "", *goals, f"- {_exports(found['exports'])}", *_autoencoder(found)])


def _goal(name: str) -> str:
    limit, only = LIMITS[name]
    return f"{limit:.2f}" + (f" for {only.upper()}" if only else "")


def _exports(exports: dict[str, dict[str, float]]) -> str:
    plain, ours = (exports[name] for name in ("plain", "ours"))
    lines = [
        f"{name} {row['seconds']:.0f} s, {row['peak above imports [MB]']:,.0f} MB above the imports for a graph of "
        f"{row['bytes'] / 1e6:,.0f} MB"
        for name, row in (("ours", ours), ("plain `torch.onnx.export`", plain))
    ]
    return f"export: {'; '.join(lines)}"


def _autoencoder(found: dict[str, Any]) -> list[str]:
    if "autoencoder" not in found:
        return []
    each = ", ".join(f"{name.partition(' [')[0]} {value:,.0f} ms" for name, value in found["autoencoder"].items())
    return [f"- the autoencoder's encoder, which comes before: {each}"]
