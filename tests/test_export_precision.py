"""The FP16 conversion as a pure pass over graphs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from aselect_export.precision import LIMIT, convert, fp16_nodes, half_tensors, measure_ranges, mixed_nodes
from aselect_runtime.onnx_session import OnnxSession

BATCH, SIDE = 1, 4
OPERATIONS = ("MatMul", "Add", "Gelu", "Transpose", "LayerNormalization", "Softmax", "Relu")


def network(operations: list[str], scale: float = 0.1) -> ModelProto:
    """frames uint8 [1, 4, 4, 3] -> float -> the operations in order on [1, 4, 12] -> logits and a second output."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((rng.standard_normal((12, 12)) * scale).astype(np.float32), "weight"),
        numpy_helper.from_array(rng.standard_normal(12).astype(np.float32), "bias"),
        numpy_helper.from_array(np.ones(12, np.float32), "gain"),
        numpy_helper.from_array(np.array([BATCH, SIDE, 12], np.int64), "shape"),
        numpy_helper.from_array(np.array([1.0 / 255], np.float32), "unit"),
    ]
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "unit"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["x0"]),
    ]
    for index, operation in enumerate(operations):
        nodes += _operation(operation, f"x{index}", f"x{index + 1}")
    nodes.append(helper.make_node("MatMul", [f"x{len(operations)}", "weight"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [BATCH, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, SIDE, 12]) for name in ("scores", "logits")],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _operation(operation: str, source: str, target: str) -> list[NodeProto]:
    if operation == "Transpose":
        middle = f"{target}_turned"
        return [
            helper.make_node("Transpose", [source], [middle], perm=[0, 2, 1]),
            helper.make_node("Transpose", [middle], [target], perm=[0, 2, 1]),
        ]
    extra = {"MatMul": ["weight"], "Add": ["bias"], "LayerNormalization": ["gain", "bias"]}.get(operation, [])
    return [helper.make_node(operation, [source, *extra], [target])]


FRAMES = np.random.default_rng(1).integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), max_size=8), st.sampled_from([fp16_nodes, mixed_nodes]))
def test_any_network_converts_to_a_valid_graph_with_the_same_answer(operations, plan) -> None:  # type: ignore[no-untyped-def]
    model = network(operations)
    ranges = measure_ranges(model, [FRAMES])
    half = convert(model, plan(model, ranges))
    onnx.checker.check_model(half, full_check=True)
    kinds = {output.name: output.type.tensor_type.elem_type for output in half.graph.output}
    assert kinds == {"scores": TensorProto.FLOAT, "logits": TensorProto.FLOAT}
    expected, got = (OnnxSession(graph.SerializeToString(), "cpu").infer(FRAMES) for graph in (model, half))
    scale = max(1.0, float(np.abs(expected["logits"]).max()))
    assert np.abs(got["logits"] - expected["logits"]).max() < 0.02 * scale


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), max_size=8))
def test_no_tensor_is_cast_twice_and_no_weight_is_left_over(operations: list[str]) -> None:
    model = network(operations)
    half = convert(model, fp16_nodes(model, measure_ranges(model, [FRAMES])))
    casts = [(node.input[0], node.attribute[0].i) for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    used = {name for node in half.graph.node for name in node.input}
    assert {weight.name for weight in half.graph.initializer} <= used


def test_norms_and_softmax_stay_fp32_and_products_do_not() -> None:
    model = network(["LayerNormalization", "MatMul", "Gelu", "Softmax", "Add"])
    half = convert(model, fp16_nodes(model, measure_ranges(model, [FRAMES])))
    fp16 = half_tensors(half)
    for node in half.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert not fp16.intersection([*node.input, *node.output])
        if node.op_type in ("MatMul", "Gelu", "Add"):
            assert fp16.issuperset([*node.input, *node.output])


def test_mixed_keeps_sums_activations_and_logits_in_fp32() -> None:
    model = network(["MatMul", "Add", "Gelu"])
    half = convert(model, mixed_nodes(model, measure_ranges(model, [FRAMES])))
    assert {name for name in half_tensors(half) if not name.startswith(("weight", "x0"))} == {"x1"}
    weights = Counter(weight.data_type for weight in half.graph.initializer if weight.name.startswith("weight"))
    assert weights == {TensorProto.FLOAT16: 1, TensorProto.FLOAT: 1}, "the logits keep the FP32 weight"


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_tensors_that_come_near_the_end_of_fp16_stay_fp32(scale: float) -> None:
    model = network(["MatMul", "MatMul", "LayerNormalization", "Gelu"], scale)
    ranges = measure_ranges(model, [FRAMES])
    assert ranges["x2"] > LIMIT
    half = convert(model, fp16_nodes(model, ranges))
    assert "x2" not in half_tensors(half)
    measured = measure_ranges(half, [FRAMES])
    assert max(measured[name] for name in half_tensors(half)) < LIMIT
    assert "x4" in half_tensors(half), "what lies beyond the norm is small again"


def test_a_nan_counts_as_out_of_range() -> None:
    model = network(["MatMul"])
    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, "weight"))
    ranges = measure_ranges(model, [FRAMES])
    assert ranges["x1"] == float("inf")
    assert ranges["weight"] == float("inf")
