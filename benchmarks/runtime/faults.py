"""An RTSP server that is killed and restarted repeatedly, and inputs that are truncated or damaged."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from aselect_runtime import open_source, run_pipeline
from aselect_runtime.errors import AselectError
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.pipeline.timing import RunSummary
from aselect_runtime.results import Result
from benchmarks.runtime.standin import Sleeping, resident, standin_manifest
from tests.runtime.rtsp_server import free_port, interpreter, serving

PATIENCE = Patience(first_delay=0.1, longest_delay=0.5)
WAIT = 60.0


def measure(folder: Path, times: int, inputs: int) -> dict[str, float | str]:
    figures = reconnects(times) if interpreter() else {"reconnects": "not run: no GStreamer RTSP server here"}
    return figures | damaged(folder, inputs)


def reconnects(times: int) -> dict[str, float | str]:
    """Kill the server `times` times; threads, descriptors and memory before the first and after the last kill."""
    port = free_port()
    seen: list[int] = [0]
    stop = threading.Event()
    summaries: list[RunSummary] = []

    def count(_: Result) -> None:
        seen[0] += 1

    def more_than(least: int) -> bool:
        return seen[0] > least

    def run() -> None:
        uri = f"rtsp://127.0.0.1:{port}/live"
        manifest, session = standin_manifest(), Sleeping(5)
        summaries.append(run_pipeline(manifest, session, [uri], stop=stop, on_frame=count, patience=PATIENCE))

    thread = threading.Thread(target=run)
    before, waits = (0, 0, 0.0), []
    for number in range(times + 1):
        with serving(port):
            start, had = time.monotonic(), seen[0]
            if number == 0:
                thread.start()
            _until(partial(more_than, had + 20))
            waits.append(time.monotonic() - start)
            after = (threading.active_count(), len(os.listdir("/proc/self/fd")), resident())
            before = after if number == 0 else before
            if number == times:
                stop.set()
                thread.join()
    return {
        "kills": times,
        "reconnects counted": summaries[0].reconnects,
        "frames counted right": str(summaries[0].frames == seen[0]),
        "slowest return, 20 frames included [s]": max(waits),
        "threads more": after[0] - before[0],
        "descriptors more": after[1] - before[1],
        "memory more [MB]": after[2] - before[2],
    }


def damaged(folder: Path, count: int) -> dict[str, float | str]:
    """Truncate or overwrite a video `count` times and run it: it must end soon, with a result or one clear error."""
    path = folder / "damaged.mkv"
    whole = np.frombuffer(_video(path), np.uint8)
    random = np.random.default_rng(0)
    ends = {"done": 0, "refused": 0}
    slowest = 0.0
    for number in range(count):
        data = whole.copy()
        if number % 2:
            data = data[: random.integers(0, len(data))]
        else:
            for place in random.integers(0, len(data) - 64, 20):
                data[place : place + 64] = random.integers(0, 256, 64)
        path.write_bytes(data.tobytes())
        start = time.monotonic()
        try:
            run_pipeline(standin_manifest(), Sleeping(0), [str(path)], max_frames=20)
            ends["done"] += 1
        except AselectError:
            ends["refused"] += 1
        slowest = max(slowest, time.monotonic() - start)
    return {
        "damaged videos that ran": ends["done"],
        "damaged videos that were refused in one line": ends["refused"],
        "slowest [s]": slowest,
    }


def _video(path: Path) -> bytes:
    """A small Matroska file, which plays up to the damaged part."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (160, 120))
    with open_source("synthetic://street?size=120x160&frames=20") as source:
        for captured in source:
            writer.write(captured.frame)
    writer.release()
    return path.read_bytes()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"no frame within {WAIT:.0f} s of the server's return")
        time.sleep(0.02)
