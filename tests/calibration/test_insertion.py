"""Q/DQ pairs as ONNX Runtime wants them: each product is computed in INT8, whoever else reads the same tensors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aselect_calibration.insertion import Int8Weights, quantised
from aselect_calibration.layers import find_layers
from aselect_calibration.ranges import Range
from aselect_calibration.weights import Graph, WeightFile
from aselect_runtime.sessions.onnx import OnnxSession

CHANNELS = 16


def _convolution(name: str, source: str, result: str) -> NodeProto:
    return helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [result], name=f"{name}.Conv")


TWO_READERS = {
    "the input": [_convolution("one", "x", "a"), _convolution("two", "x", "b")],
    "a convolution": [_convolution("first", "x", "y"), _convolution("one", "y", "a"), _convolution("two", "y", "b")],
    "a convolution and its ReLU": [
        _convolution("first", "x", "y"),
        helper.make_node("Relu", ["y"], ["z"]),
        _convolution("one", "z", "a"),
        _convolution("two", "z", "b"),
    ],
    "a convolution, a residual": [
        _convolution("first", "x", "y"),
        helper.make_node("Relu", ["y"], ["z"]),
        _convolution("one", "z", "a"),
        helper.make_node("Add", ["z", "a"], ["b"]),
    ],
}


def _graph(folder: Path, nodes: list[NodeProto]) -> Graph:
    rng = np.random.default_rng(0)
    last = [helper.make_node("Add", ["a", "b"], ["sum"]), _convolution("last", "sum", "logits")]
    names = [name for node in (*nodes, *last) for name in node.input if "." in name]
    shapes = {"weight": (CHANNELS, CHANNELS, 1, 1), "bias": (CHANNELS,)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shapes[name.split(".")[1]]).astype(np.float32) / 8, name)
        for name in names
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, 6, 8]) for name in ("x", "logits")]
    graph = helper.make_graph([*nodes, *last], "readers", ends[:1], ends[1:], weights)
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder)


@pytest.mark.parametrize("read_twice", TWO_READERS)
def test_onnx_runtime_computes_every_product_of_a_tensor_with_two_readers_in_int8(
    read_twice: str, tmp_path: Path
) -> None:
    graph = _graph(tmp_path, TWO_READERS[read_twice])
    layers = find_layers(graph, "logits")
    ranges = {layer.name: Range(input=5.0, output=5.0) for layer in layers}
    weights = WeightFile(tmp_path, "weights.bin")
    int8 = quantised(graph, layers, ranges, Int8Weights(graph, weights), weights, outputs=True)
    path = tmp_path / "int8.onnx"
    onnx.save(int8.model, str(path))

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert (kinds["QLinearConv"], kinds["Conv"]) == (len(layers), 1), "all but the last"

    x = np.random.default_rng(1).normal(size=(1, CHANNELS, 6, 8)).astype(np.float32)
    got = OnnxSession(path, "cpu").infer(cast("Any", x))["logits"]  # this graph reads no frames
    (wanted,) = ReferenceEvaluator(graph.model).run(None, {"x": x})
    assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize(("outputs", "pairs"), [(True, 2), (False, 1)])
def test_tensorrt_needs_one_pair_for_all_readers(outputs: bool, pairs: int, tmp_path: Path) -> None:
    graph = _graph(tmp_path, TWO_READERS["the input"])
    layers = find_layers(graph, "logits")
    weights = WeightFile(tmp_path, "weights.bin")
    ranges = {layer.name: Range(input=3.0, output=None) for layer in layers}
    int8 = quantised(graph, layers, ranges, Int8Weights(graph, weights), weights, outputs=outputs)
    made = [node for node in int8.model.graph.node if node.op_type == "QuantizeLinear"]
    stored = {weight.name: numpy_helper.to_array(weight) for weight in int8.model.graph.initializer}
    scales = [float(stored[node.input[1]]) for node in made]
    assert len(scales) == len(set(scales)) == pairs
    assert max(scales) <= min(scales) * (1 + 1e-6)
