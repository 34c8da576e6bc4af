"""Latencies of several graphs, measured in interleaved rounds."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.sessions.onnx import OnnxSession


def latencies(graphs: dict[str, Path], frame: NDArray[np.uint8], runs: int) -> dict[str, float]:
    """Median milliseconds of every graph, measured in interleaved rounds."""
    sessions = {row: OnnxSession(path, "cpu") for row, path in graphs.items()}
    taken: dict[str, list[float]] = {row: [] for row in graphs}
    for turn in range(runs + 3):
        for row, session in sessions.items():
            started = time.perf_counter()
            session.infer(frame)
            if turn >= 3:
                taken[row].append(time.perf_counter() - started)
    return {row: 1e3 * statistics.median(times) for row, times in taken.items()}
