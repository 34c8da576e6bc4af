"""Four 540p streams at once, in real time, through one session: throughput, and its share for each stream."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from shutil import which

from aselect_runtime import run_pipeline
from aselect_runtime.results import Result
from benchmarks.runtime.standin import Sleeping, standin_manifest, videos
from tests.runtime.rtsp_server import free_port, interpreter, serving

INFER_MS = 10.0
COUNT = 4


def measure(folder: Path, seconds: float) -> dict[str, float | str]:
    """Frames per second of each stream, for one frame at a time and for batches of four."""
    if interpreter() is None or which("ffmpeg") is None:
        return {"four streams": "not run: needs GStreamer's RTSP server and ffmpeg"}
    figures: dict[str, float | str] = {}
    video = folder / "long.mp4"
    clip = videos(folder, 2)["540p"]
    repeated = ["ffmpeg", "-v", "error", "-stream_loop", str(round(seconds)), "-i", str(clip), "-c", "copy", str(video)]
    subprocess.run(repeated, check=True)
    with ExitStack() as stack:
        ports = [free_port() for _ in range(COUNT)]
        for port in ports:
            stack.enter_context(serving(port, video))
        inputs = [f"rtsp://127.0.0.1:{port}/live" for port in ports]
        for batch in (1, COUNT):
            figures |= {f"batch {batch}: {row}": value for row, value in _shared(inputs, batch, seconds).items()}
    return figures


def _shared(inputs: list[str], batch: int, seconds: float) -> dict[str, float]:
    """Counted from when every stream has delivered a frame: servers need different times to connect."""
    counts = [0] * len(inputs)
    began: list[float] = []

    def count(result: Result) -> None:
        counts[result.stream] += 1
        if not began and all(counts):
            began.append(time.monotonic())
            counts[:] = [0] * len(inputs)

    session = Sleeping(INFER_MS, batch)
    done = run_pipeline(standin_manifest(batch), session, inputs, max_seconds=seconds, on_frame=count)
    elapsed = time.monotonic() - began[0] if began else float("nan")
    return {
        "all streams [frames/s]": sum(counts) / elapsed,
        "slowest stream over fastest": min(counts) / max(*counts, 1),
        "age p99 [ms]": done.stages["age"].p99,
    }
