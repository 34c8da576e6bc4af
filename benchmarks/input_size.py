"""The included `seg` exported for other input sizes than the one that it was trained at: accuracy and latency.

    python -m benchmarks.input_size [--runs 100]

mIoU is that of `aselect-eval` on all images of CamVid's val and test; latencies are those of ONNX Runtime's sessions in
FP32, all sizes in interleaved blocks of frames. $ASELECT_DATA holds camvid.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from aselect_export import evaluate, export
from aselect_runtime.processor import compute_threads
from benchmarks import harness
from benchmarks.latency import latencies

OUT = Path(__file__).parent / "results" / "input_size.json"
SIZES = ("192x256", "256x336", "288x384", "320x432", "352x480")
SPLITS = ("val", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # before exporting, which uses all cores itself
    data = Path(os.environ["ASELECT_DATA"]) / "camvid"
    with tempfile.TemporaryDirectory() as name:
        graphs = {size: exported(size, Path(name)) for size in SIZES}
        scores = {
            size: {split: evaluate(graph, data, split, device="cpu").score for split in SPLITS}
            for size, graph in graphs.items()
        }
        frames = {size: random_frame(size) for size in SIZES}
        times = latencies(graphs, frames, arguments.runs)
    found = {size: {**scores[size], "latency [ms]": times[size]} for size in SIZES}
    record = {**harness.stamp(), "threads": compute_threads(), "runs": arguments.runs, "load": load, "sizes": found}
    harness.save(arguments.out, record)
    print(arguments.out)


def exported(size: str, folder: Path) -> Path:
    """The included model's FP32 graph for an input of this size."""
    return export("seg", "fp32", imgsz=size, engine="none", out=folder / size).folder / "model.onnx"


def random_frame(size: str) -> np.ndarray:
    """One frame of noise, uint8 [1, H, W, 3]."""
    height, width = map(int, size.split("x"))
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)


if __name__ == "__main__":
    main()
