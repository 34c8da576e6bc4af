"""Quantised products are what the graph says: INT8 ones do not saturate, and INT4 weights have float32 activations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aselect_runtime.processor import Processor
from aselect_runtime.sessions import onnx as session_module
from aselect_runtime.sessions import openvino as openvino_module
from aselect_runtime.sessions.onnx import OnnxSession
from aselect_runtime.sessions.openvino import OpenVinoSession

INPUTS, OUTPUTS = 64, 32


def product(weights: NDArray[np.int8]) -> bytes:
    """x uint8 -> x @ weights, as the export writes an INT8 layer: one scale per tensor, zero points of zero."""
    arrays = {"scale": np.float32(1), "zero": np.int8(0), "weight": weights, "bias": np.zeros((1, OUTPUTS), np.float32)}
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["float", "scale", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["left"]),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["right"]),
        helper.make_node("MatMul", ["left", "right"], ["sums"]),
        helper.make_node("Add", ["sums", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [4, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, OUTPUTS])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("pretended", [None, Processor("an x86 without VNNI", frozenset({"avx2"}))])
@pytest.mark.parametrize("draw", [lambda _, shape: np.full(shape, 127), lambda rng, shape: rng.integers(0, 128, shape)])
def test_the_largest_products_are_exact(
    pretended: Processor | None,
    draw: Callable[[np.random.Generator, tuple[int, int]], NDArray[np.int64]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if pretended is not None:
        monkeypatch.setattr(session_module, "processor", lambda: pretended)
    rng = np.random.default_rng(0)
    x, weights = draw(rng, (4, INPUTS)), draw(rng, (INPUTS, OUTPUTS)) * rng.choice([-1, 1], OUTPUTS)
    session = OnnxSession(product(weights.astype(np.int8)), "cpu")
    np.testing.assert_array_equal(session.infer(x.astype(np.uint8))["y"], x @ weights)


@pytest.mark.parametrize(("flags", "slower"), [({"avx2"}, True), ({"avx512_vnni"}, False), ({"avx_vnni"}, False)])
def test_only_without_vnni_the_slower_products_are_asked_for(
    flags: set[str], slower: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, str] = {}

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            asked[key] = value

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setattr(session_module, "processor", lambda: Processor("some", frozenset(flags)))
    OnnxSession(product(np.ones((INPUTS, OUTPUTS), np.int8)), "cpu")
    assert (asked.get("session.x64quantprecision") == "1") is slower


def test_int4_weights_do_not_round_the_activations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.integers(0, 256, (4, INPUTS)), rng.integers(-8, 8, (INPUTS, OUTPUTS))
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["right"], axis=0, block_size=INPUTS),
        helper.make_node("MatMul", ["float", "right"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [4, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, OUTPUTS])],
        [
            helper.make_tensor("weight", TensorProto.INT4, weights.shape, weights.flatten()),
            numpy_helper.from_array(np.ones((1, OUTPUTS), np.float32), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(tmp_path / "model.onnx"))
    sessions: list[OnnxSession | OpenVinoSession] = [OnnxSession(tmp_path / "model.onnx", "cpu")]
    sessions += [OpenVinoSession(tmp_path / "model.onnx")] if openvino_module.available() else []
    for session in sessions:
        np.testing.assert_array_equal(session.infer(x.astype(np.uint8))["y"], x @ weights, err_msg=session.device)
