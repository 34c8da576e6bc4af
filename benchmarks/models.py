"""The included models: accuracy and latency in FP32 and INT8, parameters and bytes of what is deployed.

    python -m benchmarks.models [--runs 100] [--data $ASELECT_DATA]

Both graphs of a model come from one `aselect-export --precision int8` with the ranges stored in the bundle. Accuracy is
that of `aselect-eval` on all test images; latencies are those of ONNX Runtime's sessions, all graphs in interleaved
rounds. The load of the machine before and after the rounds is part of the result.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from aselect_edge.bundle import SHIPPED
from aselect_export import evaluate, export
from aselect_runtime.folder import MANIFEST
from aselect_runtime.processor import physical_cores
from aselect_runtime.records import Manifest
from benchmarks.harness import save, stamp
from benchmarks.latency import latencies

OUT = Path(__file__).parent / "results" / "models.json"
SETS = {"seg": "camvid", "cls": "cub40"}
"""Task -> folder of labelled images in the data folder."""
GRAPHS = {"fp32": "model.fp32.onnx", "int8": "model.onnx"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("ASELECT_DATA"), required="ASELECT_DATA" not in os.environ
    )
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folders = {task: Path(name) / task for task in SHIPPED}
        models = {task: measured(task, folder, Path(arguments.data) / SETS[task]) for task, folder in folders.items()}
        before = os.getloadavg()[0]
        for task, folder in folders.items():
            models[task]["latency [ms]"] = timed(folder, arguments.runs)
        load = max(before, os.getloadavg()[0])
    record = {**stamp(), "threads": physical_cores(), "runs": arguments.runs, "load": load, "models": models}
    save(arguments.out, record)
    print(arguments.out)


def measured(task: Any, folder: Path, data: Path) -> dict[str, Any]:
    """Export both graphs of an included model, count them and evaluate them on the test split."""
    export(task, "int8", engine="none", out=folder)
    manifest = Manifest.load(folder / MANIFEST)
    found = {name: evaluate(folder / graph, data, "test") for name, graph in GRAPHS.items()}
    return {
        "size": list(manifest.input.shape[1:3]),
        "classes": len(manifest.classes),
        "metric": found["fp32"].metric,
        "images": found["fp32"].images,
        "parameters": parameters(folder / GRAPHS["fp32"]),
        "score": {name: each.score for name, each in found.items()},
        "bytes": {name: (folder / graph).stat().st_size for name, graph in GRAPHS.items()},
    }


def parameters(graph: Path) -> int:
    """The elements of a graph's floating-point weights, biases included."""
    return sum(
        int(np.prod(each.dims))
        for each in onnx.load(graph).graph.initializer
        if each.data_type == onnx.TensorProto.FLOAT
    )


def timed(folder: Path, runs: int) -> dict[str, float]:
    """Median milliseconds of both graphs for one random frame of the model's size."""
    shape = Manifest.load(folder / MANIFEST).input.shape
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return latencies({name: folder / graph for name, graph in GRAPHS.items()}, frame, runs)


if __name__ == "__main__":
    main()
