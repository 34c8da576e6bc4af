"""INT4 weights: rounding in blocks, and weights of 4 and 8 bits on disk."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from aselect_calibration import weights as storage
from aselect_calibration.int4 import BLOCK, find_int4_layers, int4_weight
from aselect_calibration.rounding import FP8, weight_levels, weight_scales
from aselect_calibration.weights import Graph, WeightFile
from aselect_runtime.errors import InputError


@given(st.integers(1, 3), st.integers(1, 5), st.floats(1e-6, 1e4), st.integers(0, 2**32 - 1), st.booleans())
def test_int4_is_never_worse_than_scaling_by_the_largest(
    blocks: int, outputs: int, size: float, seed: int, half: bool
) -> None:
    weight = (size * np.random.default_rng(seed).standard_normal((blocks * BLOCK, outputs))).astype(np.float32)
    levels, scales = int4_weight(weight, half)
    assert levels.dtype == np.int8
    assert scales.dtype == (np.float16 if half else np.float32)
    assert scales.shape == (blocks, outputs)
    assert levels.min() >= -8
    assert levels.max() <= 7
    step = np.abs(weight.reshape(blocks, BLOCK, outputs)).max(1) / 7
    step = np.maximum(step.astype(scales.dtype), np.finfo(scales.dtype).tiny).astype(np.float64).repeat(BLOCK, 0)
    plain = (np.rint(weight / step).clip(-8, 7) * step - weight) ** 2
    ours = (levels * scales.astype(np.float64).repeat(BLOCK, 0) - weight) ** 2
    assert ours.sum() <= plain.sum() * (1 + 1e-4)


def test_a_block_of_zeros_stays_zero() -> None:
    levels, scales = int4_weight(np.zeros((BLOCK, 2), np.float32), half=True)
    assert not levels.any()
    assert (scales > 0).all()


def products(*widths: int) -> Graph:
    """A graph of linear layers in a row: one from each width to the next."""
    nodes, stored = [], []
    for index, shape in enumerate(itertools.pairwise(widths)):
        name = f"layer{index}"
        stored.append(numpy_helper.from_array(np.ones(shape, np.float32), f"{name}.weight"))
        source = "frames" if index == 0 else f"layer{index - 1}"
        nodes.append(helper.make_node("MatMul", [source, f"{name}.weight"], [name], name=f"{name}.MatMul"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width])
        for name, width in (("frames", widths[0]), (f"layer{len(widths) - 2}", widths[-1]))
    ]
    inner = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return Graph(helper.make_model(inner, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), Path())


def test_layers_of_whole_blocks_are_int4_and_the_last_one_never() -> None:
    found = find_int4_layers(products(128, 48, 64, 192, 5), "layer3")
    assert [layer.name for layer in found] == ["layer0", "layer2"]
    with pytest.raises(InputError, match="without a linear layer of a multiple of 64 inputs") as caught:
        find_int4_layers(products(48, 32, 64, 5), "layer2")
    assert caught.value.parameters == ("weights",)


def test_fp8_scales_stay_normal_fp16_numbers_and_nothing_saturates_to_nan() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32) * np.array([1e-6, 1, 1e4], np.float32)
    scales = weight_scales(weight, 1, FP8)
    assert (scales >= 2.0**-14).all()
    levels = weight_levels(weight, scales.astype(np.float16), 1, FP8).astype(np.float32)
    assert np.isfinite(levels).all()
    assert np.abs(levels).max() <= 448
    np.testing.assert_allclose(levels[:, 1:] * scales[1:], weight[:, 1:], rtol=1 / 15, atol=0.02 * 2.0**-6)


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.FLOAT8E4M3FN])
@pytest.mark.parametrize("limit", [storage.SINGLE_FILE, 100])
def test_small_types_are_stored_as_onnx_stores_them(
    kind: int, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SINGLE_FILE", limit)  # 100: as if it were too large for one file
    numbers = np.random.default_rng(0).integers(-8, 8, (63, 65))  # an odd number of values
    values = numbers.astype(helper.tensor_dtype_to_np_dtype(kind))
    levels = WeightFile(tmp_path, "a.weights").put("levels", values)
    assert levels.data_location == TensorProto.EXTERNAL
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    node = helper.make_node("DequantizeLinear", ["levels", "scale"], ["y"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [63, 65])
    inner = helper.make_graph([node], "g", [], [result], [levels, scale])
    graph = Graph(helper.make_model(inner, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path)
    assert (graph.array(levels).astype(np.int64) == numbers).all()
    graph.write(tmp_path / "model.onnx")
    written = onnx.load(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").exists() == (limit == 100)
    (stored,) = (weight for weight in written.graph.initializer if weight.name == "levels")
    assert (numpy_helper.to_array(stored).astype(np.int64) == numbers).all()
    assert len(stored.raw_data) == (-(-63 * 65 // 2) if kind == TensorProto.INT4 else 63 * 65)
