"""How long each stage took, over a run of any length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

STAGES = ("capture", "resize", "infer", "output")
WINDOW = 65_536
"""Percentiles look at this many of the latest frames, so that a run of months needs no more memory."""


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class RunSummary:
    """What a run did: frames with a result, wall time from the first capture on, and drops of live sources."""

    frames: int
    seconds: float
    fps: float
    dropped: int
    device: str
    stages: Mapping[str, Percentiles]
    outputs: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return asdict(self)


class Stopwatch:
    """Collects the time of each stage. Every stage belongs to one thread, so no lock is needed."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {stage: deque(maxlen=WINDOW) for stage in STAGES}

    def add(self, stage: str, milliseconds: float) -> None:
        """Count one frame's time in a stage."""
        self._times[stage].append(milliseconds)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time spent inside."""
        start = perf_counter()
        yield
        self.add(stage, (perf_counter() - start) * 1000)

    def last(self, stage: str) -> float:
        """The time that the stage counted last, in milliseconds."""
        return self._times[stage][-1]

    def percentiles(self) -> dict[str, Percentiles]:
        """p50, p95 and p99 of each stage that ran."""
        return {
            stage: Percentiles(*(round(float(value), 3) for value in np.percentile(list(times), (50, 95, 99))))
            for stage, times in self._times.items()
            if times
        }
