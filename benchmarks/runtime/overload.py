"""A live source twice as fast as the session: the age of the newest result, and whether it increases."""

from __future__ import annotations

import numpy as np

from aselect_runtime import run_pipeline
from aselect_runtime.results import Result
from benchmarks.runtime.standin import Sleeping, standin_manifest
from tests.runtime import faulty

INFER_MS = 40.0
FPS = 50.0


def measure(minutes: float) -> dict[str, float | str]:
    """Milliseconds from a frame's arrival to its result."""
    ages: list[float] = []

    def note(result: Result) -> None:
        ages.append((result.t_result - result.captured.t_capture) * 1000)

    faulty.register()
    uri = f"test://fault?fps={FPS}&frames=1000000000"
    summary = run_pipeline(standin_manifest(), Sleeping(INFER_MS), [uri], max_seconds=60 * minutes, on_frame=note)
    tenth = max(1, len(ages) // 10)
    return {
        "minutes": minutes,
        "frames with a result": summary.frames,
        "frames dropped": summary.dropped,
        "age p50 [ms]": float(np.percentile(ages, 50)),
        "age p99 [ms]": float(np.percentile(ages, 99)),
        "two inference times plus one frame [ms]": 2 * INFER_MS + 1000 / FPS,
        "age p99, first tenth of the run [ms]": float(np.percentile(ages[:tenth], 99)),
        "age p99, last tenth of the run [ms]": float(np.percentile(ages[-tenth:], 99)),
    }
