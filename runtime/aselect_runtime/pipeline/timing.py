"""Times of each stage, over a run of any length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np

from aselect_runtime.health import SinkHealth, SourceHealth

STAGES = ("capture", "resize", "wait", "infer", "age", "output")
"""`wait` is the time before the session is free; `age` is from the arrival of a frame to its result; `output` is the
time to write one result to a sink."""
WINDOW = 16_384
"""Percentiles are over this many of the latest frames, so that memory is bounded in a run of months."""


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run: frames with a result, wall time from the first capture on, drops of live sources, times."""

    frames: int
    seconds: float
    fps: float
    dropped: int
    repeated: int
    """Frames that got an earlier frame's result without inference, because nothing moved."""
    reconnects: int
    device: str
    stages: Mapping[str, Percentiles]
    sources: tuple[SourceHealth, ...]
    sinks: tuple[SinkHealth, ...]
    stalls: Mapping[str, int]
    """How often each stage was stalled, by its name."""
    outputs: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return asdict(self)


class _Times:
    """The latest WINDOW numbers, in a preallocated ring buffer."""

    def __init__(self) -> None:
        self._values = np.full(WINDOW, np.nan, np.float32)
        self._count = 0
        self._lock = Lock()

    def add(self, value: float) -> None:
        with self._lock:
            self._values[self._count % WINDOW] = value
            self._count += 1

    def latest(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        with self._lock:
            return self._values[: min(self._count, WINDOW)].copy()


class Stopwatch:
    """Collects the time of each stage; any thread may add."""

    def __init__(self) -> None:
        self._times = {stage: _Times() for stage in STAGES}

    def add(self, stage: str, milliseconds: float) -> None:
        """Add one frame's time in a stage."""
        self._times[stage].add(milliseconds)

    def percentiles(self) -> dict[str, Percentiles]:
        """p50, p95 and p99 of each stage that ran."""
        found = {}
        for stage, times in self._times.items():
            if (latest := times.latest()).size:
                found[stage] = Percentiles(*(round(float(value), 3) for value in np.percentile(latest, (50, 95, 99))))
        return found


class Lap:
    """Milliseconds of one operation; set when its block ends."""

    ms = 0.0


@contextmanager
def lap() -> Iterator[Lap]:
    """Measure the duration of the block."""
    measured = Lap()
    start = perf_counter()
    yield measured
    measured.ms = (perf_counter() - start) * 1000
