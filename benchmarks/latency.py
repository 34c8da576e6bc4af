"""Latencies of several graphs, measured in interleaved blocks."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.sessions.onnx import OnnxSession

BLOCK = 10
"""Frames in a row: a device runs one graph, whose weights stay in the processor's caches from frame to frame."""


def latencies(
    graphs: dict[str, Path], frame: NDArray[np.uint8] | dict[str, NDArray[np.uint8]], runs: int
) -> dict[str, float]:
    """Median milliseconds of every graph over `runs` frames, rounded up to whole blocks, in interleaved blocks.

    All graphs get the same frame, or each its own.
    """
    frames = frame if isinstance(frame, dict) else dict.fromkeys(graphs, frame)
    sessions = {row: OnnxSession(path, "cpu") for row, path in graphs.items()}
    taken: dict[str, list[float]] = {row: [] for row in graphs}
    for turn in range(1 + -(-runs // BLOCK)):
        for row, session in sessions.items():
            for _ in range(BLOCK):
                started = time.perf_counter()
                session.infer(frames[row])
                if turn:  # the first block warms up
                    taken[row].append(time.perf_counter() - started)
    return {row: 1e3 * statistics.median(times) for row, times in taken.items()}
