"""The cost of the runtime itself: CPU time per frame outside inference, and memory over time."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from aselect_runtime import open_source, run_pipeline
from aselect_runtime.drawing import Painter
from aselect_runtime.frames import resize
from aselect_runtime.results import Result
from aselect_runtime.sinks import encoders
from benchmarks.runtime.standin import Sleeping, resident, standin_manifest, videos
from tests.runtime import faulty

INFER_MS = 20.0
HELD = 6
"""Number of frames that a stage processes in turn: more than the caches hold, as in a run."""
ROUNDS = 60


def measure(folder: Path, minutes: float, frames: int) -> dict[str, float | str]:
    """CPU milliseconds per frame (the session sleeps, so all of it is the runtime's), and MB after some time."""
    figures: dict[str, float | str] = {}
    for size, video in videos(folder, frames).items():
        for name, outputs in {"no output": [], "overlay and lines": ["o.mp4", "o.jsonl"]}.items():
            before = time.process_time()
            paths = [str(folder / output) for output in outputs]
            done = run_pipeline(standin_manifest(), Sleeping(INFER_MS), [str(video)], paths, max_frames=frames)
            figures[f"CPU outside inference, {size}, {name} [ms/frame]"] = (
                1000 * (time.process_time() - before) / done.frames
            )
        figures |= {
            f"CPU of one stage, {size}, {stage} [ms/frame]": spent for stage, spent in stages(video, folder).items()
        }
    return figures | memory(folder, minutes)


def stages(video: Path, folder: Path) -> dict[str, float]:
    """CPU milliseconds per frame of each stage alone, FFmpeg's threads included."""
    manifest = standin_manifest()
    _, height, width, channels = manifest.input.shape
    answer = {name: array[0] for name, array in Sleeping(0).infer(np.zeros(manifest.input.shape, np.uint8)).items()}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as in a run
    with open_source(str(video)) as source:
        frames = iter(source)
        captured = list(islice(frames, HELD))
        spent = {"decode": _each(lambda _: next(frames))}
    small = np.empty((height, width, channels), np.uint8)
    results = [Result(each, answer, manifest, 0.0, {}) for each in captured]
    painter = Painter(manifest)
    images = [result.plot(painter) for result in results]
    spent["resize"] = _each(lambda n: resize(captured[n].frame, (height, width), manifest.resize, small))
    spent["paint"] = _each(lambda n: results[n].plot(painter))
    spent["lines"] = _each(lambda n: results[n].to_json())
    if (writer := encoders.start(folder / "stage.mp4", 25, (images[0].shape[0], images[0].shape[1]))) is not None:
        spent["encode"] = _each(lambda n: writer.write(images[n]))
        writer.release()
    cv2.setNumThreads(threads)
    return spent


def _each(work: Callable[[int], object]) -> float:
    """CPU milliseconds of one call, with the indices of the frames in turn."""
    before = time.process_time()
    for number in range(ROUNDS):
        work(number % HELD)
    return 1000 * (time.process_time() - before) / ROUNDS


def memory(folder: Path, minutes: float) -> dict[str, float | str]:
    """Resident MB of a live run with lines and page-sized images, after a tenth (at most a minute) and at the end."""
    early = min(60.0, 6 * minutes)
    start = time.monotonic()
    sizes: list[float] = []

    def note(_: Result) -> None:
        if not sizes and time.monotonic() - start > early:
            sizes.append(resident())

    faulty.register()
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
