"""The maximum gain of INT8, from ONNX Runtime's profile."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from aselect_calibration import find_layers
from aselect_calibration.weights import Graph
from aselect_export.graph import LOGITS
from aselect_runtime.processor import compute_threads

VNNI_GAIN = 4
"""INT8 products per instruction over FP32 ones of the same vector width (VPDPBUSD compared with VFMADD231PS)."""


def amdahl(fp32: Path, frame: NDArray[np.uint8], folder: Path) -> dict[str, float]:
    """The share of an FP32 graph's time in the products that can be INT8, and the latency ratio that this allows."""
    share = product_share(fp32, frame, folder)
    return {"share_of_products": share, "latency_ratio_limit": 1 - share + share / VNNI_GAIN}


def product_share(fp32: Path, frame: NDArray[np.uint8], folder: Path) -> float:
    """The share of the FP32 graph's time, by ONNX Runtime's own profile, in the products that can be INT8."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = compute_threads()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(fp32, options, providers=["CPUExecutionProvider"])
    for _ in range(20):
        session.run(None, {"frames": frame})
    times: dict[tuple[str, str], list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["name"].endswith("_kernel_time"):
            times.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    medians = {node: statistics.median(taken) for node, taken in times.items()}
    left_out = products_left_out(fp32)
    # Attention's inner products are MatMul; those with weights have become Gemm.
    products = sum(
        taken
        for (operation, name), taken in medians.items()
        if operation in ("Gemm", "Conv", "FusedConv") and not name.startswith(left_out)
    )
    return products / sum(medians.values())


def products_left_out(fp32: Path) -> tuple[str, ...]:
    """Name prefixes, in the profile, of the products that stay FP32: the head's last, and attention's inner ones."""
    graph = Graph(onnx.load(fp32), fp32.parent)
    served = {layer.node for layer in find_layers(graph, LOGITS)}
    nodes = [node for node in graph.model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    # ONNX Runtime names a convolution after its output once it has changed its layout.
    return (LOGITS, *(node.name for node in nodes if node.output[0] not in served))
