"""How long a session takes, and what counts as faster."""

from __future__ import annotations

import time

import numpy as np

from aselect_runtime.frames import Frame
from aselect_runtime.sessions.session import Session

MARGIN = 1.02
"""A way that computes less exactly is taken where it is at least so many times faster."""
LEAST = 5
"""Calls that are timed at least, after one that warms up."""
SECONDS = 0.5
"""For which they go on at least."""


def median_ms(session: Session, frames: Frame) -> float:
    """Median milliseconds of `infer` on one batch, uint8 [N, H, W, 3]; raises EngineError."""
    session.infer(frames)
    times: list[float] = []
    while len(times) < LEAST or sum(times) < SECONDS:
        start = time.perf_counter()
        session.infer(frames)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1000
