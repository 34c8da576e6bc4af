"""Shared by all benchmarks: the machine, versions, interleaved medians, printed rows and the JSON file."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from aselect_runtime.files import atomic_write
from aselect_runtime.processor import processor

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "torch")
"""Packages whose versions may affect a figure."""

WIDEST = {"amx_bf16": "with AMX", "avx512f": "with AVX-512", "avx2": "with AVX2"}
"""Linux CPU flags, the fastest first: processors of one name differ by these, and figures with them."""

Figures = dict[str, float | str]


def machine(*more: str) -> str:
    """The cores, the processor with its widest instructions, and further notes of the benchmark."""
    here = processor()
    widest = [name for flag, name in WIDEST.items() if flag in here.flags][:1]
    return ", ".join([f"{os.cpu_count()} cores", " ".join([here.name, *widest]), *more])


def stamp(*more: str) -> dict[str, Any]:
    """The header of every result: date, machine and versions of the installed packages."""
    return {"date": str(datetime.date.today()), "machine": machine(*more), "versions": versions()}


def versions() -> dict[str, str]:
    """Package -> version, for those of PACKAGES that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def in_turns(ways: Mapping[str, Callable[[], float]], runs: int) -> dict[str, float]:
    """The median of each way, measured in interleaved rounds, so that a busy moment affects all of them."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            samples[name].append(way())
    return {name: median(values) for name, values in samples.items()}


def rows(title: str, figures: Mapping[str, float | str]) -> str:
    """The figures as printed: one row each below the title."""
    lines = [
        f"  {name:<72}{value if isinstance(value, str) else f'{value:.3f}':>12}" for name, value in figures.items()
    ]
    return "\n".join([title, *lines])


def listed(result: Mapping[str, Any], command: str) -> str:
    """The figures as a Markdown table, below the command that measures them."""
    lines = [f"| {name} | {v if isinstance(v, str) else f'{v:,.2f}'} |" for name, v in result["figures"].items()]
    caption = f"Measured {result['date']} on {result['machine']}."
    if result.get("versions"):
        caption += " " + ", ".join(f"{name} {value}" for name, value in result["versions"].items()) + "."
    return "\n".join([f"| `{command}` | |", "|---|---|", *lines, "", caption])


def load(path: Path) -> dict[str, Any]:
    """The content of a result's file; empty if there is none yet."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result atomically."""
    atomic_write(path, json.dumps(result, indent=2) + "\n")
