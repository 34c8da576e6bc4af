"""One JSON object a frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aselect_edge.files import atomic_file
from aselect_edge.records import Manifest
from aselect_runtime.results import Result, areas, top_scores
from aselect_runtime.sinks import Write


@contextmanager
def lines(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Writes `described` as one line a result."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:

        def write(result: Result) -> None:
            stream.write(json.dumps(described(result, manifest), ensure_ascii=False) + "\n")

        yield write


def described(result: Result, manifest: Manifest) -> dict[str, Any]:
    """`frame`, `source`, `t_capture`, `t_result` (Unix seconds), `latency_ms`, and `areas` or `top`, as JSON types."""
    answer = {"areas": areas(result, manifest)} if manifest.task == "seg" else {"top": top_scores(result, manifest)}
    return {
        "frame": result.captured.index,
        "source": result.captured.source.name,
        "t_capture": round(result.captured.t_capture, 4),
        "t_result": round(result.t_result, 4),
        "latency_ms": dict(result.latency_ms),
        **answer,
    }
