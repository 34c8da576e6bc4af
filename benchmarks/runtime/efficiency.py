"""Frames per second of whole loops over the raw rate of a session that sleeps 5, 10 or 20 ms.

Every loop does the same work: decode, resize, infer, paint, encode an overlay video, write a JSON line. The plain
loop is what one writes with OpenCV in an afternoon, with this project's own painting; supervision's process_video runs
its reader, callback and writer as it does for everybody.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2

from aselect_edge.frames import resize
from aselect_runtime import run_pipeline
from aselect_runtime.drawing import Painter
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.sinks.lines import described
from benchmarks.runtime.standin import Sleeping, films, standin_manifest

LATENCIES = (5, 10, 20)
SUPERVISION = """
import sys, time
import supervision
from benchmarks.runtime.efficiency import callback
film, out, milliseconds, frames = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
act = callback(milliseconds, out + ".jsonl")
start = time.perf_counter()
supervision.process_video(film, out + ".mp4", act, max_frames=frames)
print(frames / (time.perf_counter() - start))
"""


def measure(folder: Path, runs: int, frames: int, supervision: Path | None) -> dict[str, float | str]:
    """Rates and ratios, the median of `runs` taken in turns."""
    samples: dict[str, list[float]] = {}
    clips = films(folder, frames)
    loops: dict[str, Callable[[Path, float], float]] = {
        "aselect-run": lambda film, ms: ours(film, ms, frames, folder),
        "plain OpenCV loop": lambda film, ms: plain(film, ms, frames, folder),
    }
    if supervision is not None:
        loops["supervision process_video"] = lambda film, ms: theirs(supervision, film, ms, frames, folder)
    for _ in range(runs):
        for size, film in clips.items():
            for ms in LATENCIES:
                raw = Sleeping(ms).rate()
                for name, loop in loops.items():
                    samples.setdefault(f"{name}, {size}, {ms} ms, over the raw rate", []).append(loop(film, ms) / raw)
    figures: dict[str, float | str] = {row: round(median(values), 3) for row, values in samples.items()}
    if supervision is None:
        figures["supervision process_video"] = "not run: no --supervision"
    figures["ultralytics, roboflow inference"] = "not run: their loops take no foreign session"
    return figures


def ours(film: Path, milliseconds: float, frames: int, folder: Path) -> float:
    outputs = [str(folder / "ours.mp4"), str(folder / "ours.jsonl")]
    return run_pipeline(standin_manifest(), Sleeping(milliseconds), [str(film)], outputs, max_frames=frames).fps


def plain(film: Path, milliseconds: float, frames: int, folder: Path) -> float:
    """Read, resize, infer, paint, write: one after the other."""
    capture = cv2.VideoCapture(str(film))
    size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    writer = cv2.VideoWriter(str(folder / "plain.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
    act = callback(milliseconds, str(folder / "plain.jsonl"))
    start = time.perf_counter()
    count = 0
    while count < frames:
        found, frame = capture.read()
        if not found:
            break
        writer.write(act(frame, count))
        count += 1
    capture.release()
    writer.release()
    return count / (time.perf_counter() - start)


def theirs(python: Path, film: Path, milliseconds: float, frames: int, folder: Path) -> float:
    """In an environment of its own, which needs this project's runtime and supervision."""
    command = [str(python), "-c", SUPERVISION, str(film), str(folder / "theirs"), str(milliseconds), str(frames)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def callback(milliseconds: float, lines: str) -> Callable[[cv2.typing.MatLike, int], cv2.typing.MatLike]:
    """One frame in, the painted frame out, a JSON line written: for loops that are built around such a function."""
    manifest, session = standin_manifest(), Sleeping(milliseconds)
    painter = Painter(manifest)
    info = SourceInfo("film", 25)
    stream = Path(lines).open("w", encoding="utf-8")  # noqa: SIM115 - lives as long as the callback

    def act(frame: cv2.typing.MatLike, index: int) -> cv2.typing.MatLike:
        captured = Captured(frame, index, f"{index}", info)  # type: ignore[arg-type]
        pixels = resize(captured.frame, manifest.input.shape[1:3], manifest.resize)  # type: ignore[arg-type]
        outputs = {name: array[0] for name, array in session.infer(pixels[None]).items()}
        result = Result(captured, outputs, time.time(), {})
        stream.write(json.dumps(described(result, manifest)) + "\n")
        return painter.paint(result)

    return act
