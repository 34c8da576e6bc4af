"""What the runtime itself costs: CPU time for a frame outside inference, and memory over time."""

from __future__ import annotations

import time
from pathlib import Path

from aselect_runtime import run_pipeline
from aselect_runtime.results import Result
from benchmarks.runtime.standin import Sleeping, films, resident, standin_manifest

INFER_MS = 20.0


def measure(folder: Path, minutes: float, frames: int) -> dict[str, float | str]:
    """CPU milliseconds a frame (the session sleeps, so all of it is the runtime's), and MB after a while."""
    figures: dict[str, float | str] = {}
    for size, film in films(folder, frames).items():
        for name, outputs in {"no output": [], "overlay and lines": ["o.mp4", "o.jsonl"]}.items():
            before = time.process_time()
            paths = [str(folder / output) for output in outputs]
            done = run_pipeline(standin_manifest(), Sleeping(INFER_MS), [str(film)], paths, max_frames=frames)
            figures[f"CPU outside inference, {size}, {name} [ms/frame]"] = (
                1000 * (time.process_time() - before) / done.frames
            )
    return figures | memory(folder, minutes)


def memory(folder: Path, minutes: float) -> dict[str, float | str]:
    """Resident MB of a live run with lines and page-sized pictures, after a tenth (at most a minute) and at the end."""
    early = min(60.0, 6 * minutes)
    start = time.monotonic()
    sizes: list[float] = []

    def note(_: Result) -> None:
        if not sizes and time.monotonic() - start > early:
            sizes.append(resident())

    uri = "test://fault?fps=25&drop=0.001&resize=0.001&frames=1000000000"
    outputs = [str(folder / "memory.jsonl"), str(folder / "memory.mkv")]
    run_pipeline(standin_manifest(), Sleeping(INFER_MS), [uri], outputs, max_seconds=60 * minutes, on_frame=note)
    after = resident()
    first = sizes[0] if sizes else after
    return {
        f"resident memory after {early:.0f} s [MB]": first,
        f"resident memory after {60 * minutes:.0f} s [MB]": after,
        "growth [%]": 100 * (after / first - 1),
    }
