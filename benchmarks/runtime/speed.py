"""The speed of aselect-run with a real model: the whole pipeline compared with the session alone, and the first result.

    python -m benchmarks.runtime speed EXPORT_FOLDER [VIDEO] [--runs 5] [--frames 200]

Without VIDEO it uses $ASELECT_DATA/video/highway_540p.mp4, or else renders a synthetic video. Every figure is the
median of several interleaved runs, so that a busy moment affects all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from aselect_runtime import open_model, open_source
from aselect_runtime.frames import resize
from aselect_runtime.records import Manifest
from benchmarks.harness import in_turns

RUN = [sys.executable, "-c", "from aselect_runtime.commands.run import run; run()"]
IMPORTS = "import aselect_runtime.commands.run, aselect_runtime.backends, aselect_runtime.pipeline.run"
BARE = """
import sys, time
import cv2
graph, video = sys.argv[1:]
_, frame = cv2.VideoCapture(video).read()
try:
    sys.modules["openvino.tools.ovc"] = None
    import openvino
    model = openvino.Core().compile_model(graph, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    _, height, width, _ = model.inputs[0].shape
    model.create_infer_request().infer({0: cv2.resize(frame, (width, height))[None]})
except ImportError:
    import onnxruntime
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    session.run(None, {given.name: cv2.resize(frame, given.shape[2:0:-1])[None]})
print(time.time())
"""
"""A minimal program, without checks, pipeline or cache."""
BARE_SECONDS = 3.0


def measure(model: Path, video: Path, runs: int, frames: int, folder: Path) -> dict[str, float]:
    overlay = ["--output", str(folder / "overlay.mp4"), "--output", str(folder / "lines.jsonl")]
    first_result(model, video, folder)  # fills the cache that later starts use
    found = in_turns(
        {
            "session alone [frames/s]": lambda: bare_rate(model, video),
            "aselect-run, no output [frames/s]": lambda: pipeline_rate(model, video, frames, []),
            "aselect-run, overlay and lines [frames/s]": lambda: pipeline_rate(model, video, frames, overlay),
            "process start to first result [s]": lambda: first_result(model, video, folder),
            "bare OpenVINO or ONNX Runtime, process start to first answer [s]": lambda: first_bare(model, video),
            "of which imports [s]": import_seconds,
        },
        runs,
    )
    return {name: round(value, 3) for name, value in found.items()}


def bare_rate(model: Path, video: Path) -> float:
    """Frames per second of only `infer`, on real frames that are resized in advance."""
    manifest, session = open_model(model, "auto")
    batch, height, width, _ = manifest.input.shape
    with open_source(str(video)) as source:
        frame = resize(next(iter(source)).frame, (height, width), manifest.resize)
    frames = np.repeat(frame[None], batch, axis=0)
    session.infer(frames)
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < BARE_SECONDS:
        session.infer(frames)
        calls += 1
    session.close()
    return calls * batch / elapsed


def pipeline_rate(model: Path, video: Path, frames: int, outputs: list[str]) -> float:
    command = [*RUN, str(model), str(video), "--max-frames", str(frames), "--json", *outputs]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["fps"])


def first_result(model: Path, video: Path, folder: Path) -> float:
    """Seconds from starting the process to the time stamp of the first result that it writes."""
    lines = folder / "first.jsonl"
    start = time.time()
    command = [*RUN, str(model), str(video), "--max-frames", "1", "--output", str(lines)]
    subprocess.run(command, capture_output=True, check=True)
    return float(json.loads(lines.read_text())["t_result"]) - start


def first_bare(model: Path, video: Path) -> float:
    """Seconds from starting a process to its first answer, with only OpenCV and the inference library in it."""
    graph = model / Manifest.load(model / "manifest.json").model if model.is_dir() else model
    start = time.time()
    command = [sys.executable, "-c", BARE, str(graph), str(video)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) - start


def import_seconds() -> float:
    code = f"import time; start = time.perf_counter(); {IMPORTS}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def default_video(folder: Path, frames: int) -> Path:
    data = os.environ.get("ASELECT_DATA")
    real = Path(data) / "video" / "highway_540p.mp4" if data else None
    if real is not None and real.exists():
        return real
    path = folder / "synthetic.mp4"
    with open_source(f"synthetic://street?size=540x960&fps=25&frames={min(frames, 100)}") as source:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (960, 540))
        for captured in source:
            writer.write(captured.frame)
        writer.release()
    return path
