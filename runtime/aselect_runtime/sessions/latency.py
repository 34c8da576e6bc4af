"""Measuring a session's latency, and how much faster a less exact configuration must be."""

from __future__ import annotations

import time

import numpy as np

from aselect_runtime.frames import Frame
from aselect_runtime.sessions.session import Session

MARGIN = 1.02
"""A less exact configuration is used only if it is at least this many times as fast."""
LEAST = 5
"""Minimum number of timed calls, after one warm-up call."""
SECONDS = 0.5
"""Minimum total time of the timed calls."""


def median_ms(session: Session, frames: Frame) -> float:
    """Median milliseconds of `infer` on one batch, uint8 [N, H, W, 3]; raises EngineError."""
    session.infer(frames)
    times: list[float] = []
    while len(times) < LEAST or sum(times) < SECONDS:
        start = time.perf_counter()
        session.infer(frames)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1000
