"""The FP16 conversion as a pure pass over graphs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from aselect_calibration.weights import Graph
from aselect_export.activations import Span, record_spans
from aselect_export.precision import LIMIT, CastPlan, convert, fp16, fp16_but_coarse, half_tensors, products

BATCH, SIDE = 1, 4
OPERATIONS = ("MatMul", "Add", "Gelu", "Transpose", "LayerNormalization", "Softmax", "Relu")


def network(operations: list[str], folder: Path, scale: float = 0.1, offset: float = 0.0) -> Graph:
    """frames uint8 [1, 4, 4, 3] -> float -> the operations in order on [1, 4, 12] -> logits and a second output."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((rng.standard_normal((12, 12)) * scale).astype(np.float32), "weight"),
        numpy_helper.from_array((rng.standard_normal(12) + offset).astype(np.float32), "bias"),
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
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder)


def halved(graph: Graph, rung: Callable[[ModelProto, Mapping[str, Span]], CastPlan] = fp16) -> Graph:
    plan = rung(graph.model, record_spans(graph, [FRAMES]))
    return convert(graph, plan.half, "half.weights")


def _operation(operation: str, source: str, target: str) -> list[NodeProto]:
    if operation == "Transpose":
        middle = f"{target}_turned"
        return [
            helper.make_node("Transpose", [source], [middle], perm=[0, 2, 1]),
            helper.make_node("Transpose", [middle], [target], perm=[0, 2, 1]),
        ]
    extra = {"MatMul": ["weight"], "Add": ["bias"], "LayerNormalization": ["gain"]}.get(operation, [])
    return [helper.make_node(operation, [source, *extra], [target])]


FRAMES = np.random.default_rng(1).integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(st.sampled_from(OPERATIONS), max_size=8), rung=st.sampled_from([fp16, products]))
def test_any_network_converts_to_a_valid_graph_with_the_same_answer(
    operations: list[str], rung: Callable[[ModelProto, Mapping[str, Span]], CastPlan], tmp_path: Path
) -> None:
    graph = network(operations, tmp_path)
    half = halved(graph, rung).check()
    kinds = {output.name: output.type.tensor_type.elem_type for output in half.model.graph.output}
    assert kinds == {"scores": TensorProto.FLOAT, "logits": TensorProto.FLOAT}
    expected, got = (one.session().infer(FRAMES) for one in (graph, half))
    scale = max(1.0, float(np.abs(expected["logits"]).max()))
    assert np.abs(got["logits"] - expected["logits"]).max() < 0.02 * scale


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(st.sampled_from(OPERATIONS), max_size=8))
def test_no_tensor_is_cast_twice_and_no_weight_is_left_over(operations: list[str], tmp_path: Path) -> None:
    half = halved(network(operations, tmp_path)).model
    casts = [(node.input[0], node.attribute[0].i) for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    used = {name for node in half.graph.node for name in node.input}
    assert {weight.name for weight in half.graph.initializer} <= used


def test_norms_and_softmax_stay_fp32_and_products_do_not(tmp_path: Path) -> None:
    half = halved(network(["LayerNormalization", "MatMul", "Gelu", "Softmax", "Add"], tmp_path)).model
    tensors = half_tensors(half)
    for node in half.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert not tensors.intersection([*node.input, *node.output])
        if node.op_type in ("MatMul", "Gelu", "Add"):
            assert tensors.issuperset([*node.input, *node.output])


def test_mixed_keeps_sums_activations_and_logits_in_fp32(tmp_path: Path) -> None:
    half = halved(network(["MatMul", "Add", "Gelu"], tmp_path), products).model
    assert {name for name in half_tensors(half) if not name.startswith(("weight", "x0"))} == {"x1"}
    weights = Counter(weight.data_type for weight in half.graph.initializer if weight.name.startswith("weight"))
    assert weights == {TensorProto.FLOAT16: 1, TensorProto.FLOAT: 1}, "the logits keep the FP32 weight"


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_tensors_that_come_near_the_end_of_fp16_stay_fp32(scale: float, tmp_path: Path) -> None:
    graph = network(["MatMul", "MatMul", "LayerNormalization", "Gelu"], tmp_path, scale)
    spans = record_spans(graph, [FRAMES])
    assert spans["x2"].largest > LIMIT
    plan = fp16(graph.model, spans)
    assert f"x2 reaches {spans['x2'].largest:.0f}" in plan.kept["x2"]
    half = convert(graph, plan.half, "half.weights")
    tensors = half_tensors(half.model)
    assert "x2" not in tensors
    measured = record_spans(half, [FRAMES])
    assert max(measured[name].largest for name in tensors) < LIMIT
    assert "x4" in tensors, "what lies beyond the norm is small again"


def test_a_common_offset_makes_fp16_coarse(tmp_path: Path) -> None:
    graph = network(["Add", "LayerNormalization", "Gelu"], tmp_path, offset=2000.0)
    spans = record_spans(graph, [FRAMES])
    value = np.float32(spans["x1"].largest)
    assert 0.05 < spans["x1"].coarseness < 1, f"FP16 has steps of {np.spacing(np.float16(value))} there"
    assert spans["x2"].coarseness < 1e-3
    assert "x1" in fp16(graph.model, spans).half
    plan = fp16_but_coarse(graph.model, spans, 0.01)
    assert "x1" not in plan.half
    assert "x3" in plan.half
    assert re.match(r"rounding x1 to FP16 loses [\d.]+% of its variation", plan.kept["x1"])


def test_spans_are_those_of_numpy(tmp_path: Path) -> None:
    graph = network(["MatMul", "Gelu"], tmp_path)
    spans = record_spans(graph, [FRAMES, FRAMES // 2])
    inputs = [frames.astype(np.float32).reshape(BATCH, SIDE, 12) / 255 for frames in (FRAMES, FRAMES // 2)]
    weight = numpy_helper.to_array(graph.model.graph.initializer[0])
    values = np.stack([x @ weight for x in inputs])
    assert spans["x1"].largest == pytest.approx(np.abs(values).max(), rel=1e-5)
    lost = values - values.astype(np.float16).astype(np.float32)
    varied = values - values.mean(axis=-1, keepdims=True)
    assert spans["x1"].coarseness == pytest.approx(np.sqrt((lost**2).sum() / (varied**2).sum()), rel=1e-2)


def test_a_nan_counts_as_out_of_range(tmp_path: Path) -> None:
    graph = network(["MatMul"], tmp_path)
    weight = graph.model.graph.initializer[0]
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, "weight"))
    spans = record_spans(graph, [FRAMES])
    assert spans["x1"].largest == float("inf")
    assert spans["weight"].largest == float("inf")
