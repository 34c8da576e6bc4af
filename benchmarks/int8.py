"""INT8 of the shipped models compared with other quantisers, and of DiT-XL/2's shape: accuracy, latency, bytes, cost.

    python -m benchmarks.int8 [--frames 128] [--runs 40] [--peers] [--out runs/int8.json]
    python -m benchmarks.int8 --write        puts the tables of benchmarks/results/int8.json into docs/int8.md

Needs $ASELECT_DATA for CamVid and cub40. All rows of a task start from the same FP32 graph and the same calibration
frames, each in a separate process; latencies are measured in interleaved blocks. With --peers, NVIDIA Model Optimizer
and NNCF are installed into separate environments under runs/, several GB together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aselect_calibration.frames import calibration_frames
from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_edge.evaluation.metrics import Figures
from aselect_export.evaluation import accuracy
from aselect_export.graph import trace, without_logits
from aselect_export.predictors import Predictor
from aselect_runtime.processor import compute_threads
from aselect_runtime.records import Bundle, Task
from aselect_runtime.sessions.onnx import OnnxSession
from benchmarks.harness import save, stamp
from benchmarks.int8_amdahl import amdahl
from benchmarks.int8_quantisers import TITLES, last_line, make_rows
from benchmarks.int8_table import table, write_docs
from benchmarks.int8_xl import XL_BLOCKS, xl_figures
from benchmarks.latency import latencies

EXPORT = "from aselect_export.commands.export import export; export()"


@dataclass(frozen=True)
class Job:
    """A task and the comparison of its INT8 model."""

    task: Task
    folder: str
    """Sub-folder of $ASELECT_DATA: `train` for calibration, `test` for the score, `val` for the accuracy check."""
    metric: str
    """Name of its score, for display."""
    answer: str
    """The graph's output that is scored."""


JOBS = (
    Job("seg", "camvid", "CamVid test mIoU", "class_map"),
    Job("cls", "cub40", "cub40 test top-1", "scores"),
)


@dataclass(frozen=True)
class Effort:
    """The size of the measurement."""

    frames: int
    """Number of calibration frames."""
    runs: int
    """Number of timed runs of each graph."""
    images: int | None
    """Maximum test images, spread over the split; None: all of them."""
    peers: bool
    """Whether to include quantisers that need separate environments."""
    rows: tuple[str, ...] = tuple(TITLES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--images", type=int, help="of each test split; all of them if left out")
    parser.add_argument("--xl-blocks", type=int, default=XL_BLOCKS)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/int8.json"))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.write:
        write_docs()
        return
    if "ASELECT_DATA" not in os.environ:
        sys.exit("ASELECT_DATA is not set, expected the folder that holds camvid/ and cub40/; set it and run again")
    effort = Effort(arguments.frames, arguments.runs, arguments.images, arguments.peers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record = measure(effort, SHIPPED, Path(os.environ["ASELECT_DATA"]), folder)
        record["xl"] = xl_figures(arguments.xl_blocks, max(8, effort.runs // 4), folder / "xl")
    save(arguments.out, record)
    print(table(record))
    print(arguments.out)


def measure(effort: Effort, bundles: dict[str, Path], data: Path, folder: Path) -> dict[str, Any]:
    """The figures of every task with a bundle, and the names of the tasks without one."""
    present = [job for job in JOBS if job.task in bundles]
    tasks = {}
    for job in present:
        (folder / job.task).mkdir()
        tasks[job.task] = measure_task(job, effort, bundles[job.task], data / job.folder, folder / job.task)
    return {
        **stamp(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "threads": compute_threads(),
        "frames": effort.frames,
        "tasks": tasks,
        "skipped": {job.task: f"{job.metric}: no bundle ships" for job in JOBS if job not in present},
    }


def measure_task(job: Job, effort: Effort, place: Path, data: Path, folder: Path) -> dict[str, Any]:
    """All figures of one task; graphs and calibration frames go to `folder`."""
    bundle = load_bundle(place)
    record = bundle.record
    fp32 = folder / "fp32.onnx"
    without_logits(trace(bundle.deployed(), job.task, 1, record.imgsz, folder)).write(fp32)
    frames = np.stack(list(calibration_frames(data, effort.frames, record.imgsz, record.resize)))
    rows, skipped = make_rows(fp32, frames, folder, effort.peers, effort.rows)
    if "ours" in skipped:
        sys.exit(f"{job.metric}, ours: {skipped['ours']}")
    graphs = {"fp32": fp32} | {row: folder / f"{row}.onnx" for row in rows}
    figures = {row: score(job, record, path, data, effort.images) for row, path in graphs.items()}
    times = latencies(graphs, frames[:1], effort.runs)
    for row, path in graphs.items():
        found = {"score": figures[row].score, "latency_ms": times[row], "bytes": path.stat().st_size}
        rows[row] = rows.get(row, {}) | found
    return {
        "metric": job.metric,
        "images": figures["fp32"].images,
        "whole_split": effort.images is None,
        "rows": rows,
        "skipped": skipped,
        "frames_per_second": {row: 1e3 / milliseconds for row, milliseconds in times.items()},
        "amdahl": amdahl(fp32, frames[:1], folder),
        "export": export_figures(place, data, effort.frames, folder),
    }


def score(job: Job, record: Bundle, graph: Path, data: Path, images: int | None) -> Figures:
    """The task's metric of a graph on the test split."""
    session = OnnxSession(graph, "cpu")

    def predict(frames: NDArray[np.uint8]) -> NDArray[Any]:
        return session.infer(frames, [job.answer])[job.answer]

    model = Predictor(job.task, record.classes, record.resize, (1, *record.imgsz), predict, session.device)
    found = accuracy(model, data, "test", most=images)
    session.close()
    return found


def export_figures(place: Path, data: Path, frames: int, folder: Path) -> dict[str, Any]:
    """aselect-export's own report: the accuracy check on the validation split, and the layers in higher precision."""
    out = folder / "export"
    arguments: Iterable[Any] = ("--model", place, "--precision", "int8", "--data", data, "--calib-images", frames)
    own_cache = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, *map(str, arguments), "--out", str(out), "--engine", "none", "--json"],
        check=False,
        capture_output=True,
        text=True,
        env=own_cache,
    )
    seconds = time.perf_counter() - started
    if done.returncode:  # a failed check is a result, too
        return {"seconds": seconds, "failed": last_line(done.stderr)}
    found = json.loads((out / "report.json").read_text())["quantisation"]
    returned = [layer["layer"] for layer in found["layers"] if not layer["int8"]]
    return {
        "seconds": seconds,
        "metric": found["metric"],
        "val_fp32": found["fp32"],
        "val_int8": found["int8"],
        "given_back": returned,
    }


if __name__ == "__main__":
    main()
