"""The lower bound of a graph's latency: only its matrix products, each computed by the fastest library here.

The products are measured one by one, as in the model: shape, element type, and whether one side is a constant that may
be packed in advance. Their sum, with the fastest library for each, is a lower bound of the graph's latency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

Timer = Callable[[Callable[[], Any]], float]


@dataclass(frozen=True)
class Product:
    """A MatMul of left (…, M, K) with right (…, K, N), or a patch embedding written as one."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    constant: bool
    """Whether the right side is a weight."""

    @property
    def gflop(self) -> float:
        """Billions of multiplications and additions."""
        return 2e-9 * float(np.prod(self.left)) * self.right[-1]


def floor(graph: Path, timed: Timer, threads: int, bf16: bool) -> dict[str, float]:
    """Milliseconds of all products of a graph in float32 and, if wanted, in bfloat16, and their GFLOP."""
    torch.set_num_threads(threads)
    products = products_of(graph)
    totals = {"f32 [ms]": 0.0} | ({"bf16 [ms]": 0.0} if bf16 else {})
    for product, count in products.items():
        f32 = [_torch(product, torch.float32, timed), _onnxruntime(product, timed, threads)]
        f32.append(_openvino(product, "f32", timed, threads))
        totals["f32 [ms]"] += count * min(f32)
        if bf16:
            half = [_torch(product, torch.bfloat16, timed), _openvino(product, "bf16", timed, threads)]
            totals["bf16 [ms]"] += count * min(half)
    return totals | {"GFLOP": sum(count * product.gflop for product, count in products.items())}


def products_of(path: Path) -> Counter[Product]:
    """The products of a graph and how often each occurs."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    graph = model.graph
    shapes = {
        value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    shapes |= weights
    found: Counter[Product] = Counter()
    for node in graph.node:
        if node.op_type == "MatMul":
            left, right = (shapes[name] for name in node.input)
            found[Product(left, right, node.input[1] in weights)] += 1
        elif node.op_type == "Conv":
            out, kernel = shapes[node.output[0]], weights[node.input[1]]
            pixels, depth = out[2] * out[3], int(np.prod(kernel[1:]))
            found[Product((out[0], pixels, depth), (depth, kernel[0]), True)] += 1
    return found


def _torch(product: Product, kind: torch.dtype, timed: Timer) -> float:
    left, right = torch.randn(product.left).to(kind), torch.randn(product.right).to(kind)
    with torch.no_grad():
        return timed(lambda: left @ right)


def _onnxruntime(product: Product, timed: Timer, threads: int) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = _model(product).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = _feeds(product)
    return timed(lambda: session.run(None, feeds))


def _openvino(product: Product, precision: str, timed: Timer, threads: int) -> float:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    core = openvino.Core()
    request = core.compile_model(core.read_model(_model(product).SerializeToString()), "CPU", hints)
    infer = request.create_infer_request()
    feeds = list(_feeds(product).values())
    return timed(lambda: infer.infer(feeds, share_inputs=True))


def _feeds(product: Product) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shapes = {"left": product.left} | ({} if product.constant else {"right": product.right})
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def _model(product: Product) -> ModelProto:
    inputs = [helper.make_tensor_value_info("left", TensorProto.FLOAT, product.left)]
    weights = []
    if product.constant:
        values = np.random.default_rng(0).standard_normal(product.right, np.float32)
        weights.append(numpy_helper.from_array(values, "right"))
    else:
        inputs.append(helper.make_tensor_value_info("right", TensorProto.FLOAT, product.right))
    out = (*product.left[:-1], product.right[-1])
    node = helper.make_node("MatMul", ["left", "right"], ["out"])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, out)
    graph = helper.make_graph([node], "product", inputs, [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
