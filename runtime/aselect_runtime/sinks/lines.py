"""One JSON object a frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from aselect_runtime.errors import WriteError
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result, areas, top_scores
from aselect_runtime.sinks.sink import Write


@contextmanager
def lines(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Writes `described` as one line a result.

    The file is written in place, one whole line at a time, so that it can be followed while the run goes on; whatever
    ends the run, the lines so far stay. An older file is replaced.
    """
    with _opened(path) as stream:

        def write(result: Result) -> None:
            line = json.dumps(described(result, manifest), ensure_ascii=False)
            with _naming(path):
                stream.write(f"{line}\n".encode())

        yield write


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = FileIO(path, "w")
    with stream:
        yield stream


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns the faults of a disk into WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{path}: could not write ({error.strerror}), expected a writable place; free space or choose another"
        ) from error


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
