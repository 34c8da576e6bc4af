"""The engine builder against the real TensorRT-RTX, which builds ahead of time on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from aselect_runtime.engines import build_engine, check_target, engine_name, versions
from aselect_runtime.engines.gpu import find_gpu
from aselect_runtime.engines.versions import known_targets, load
from aselect_runtime.errors import EngineError, InputError, MissingDependencyError
from aselect_runtime.files import sha256
from tests.log_lines import heard

rtx = pytest.mark.skipif(not versions.available("rtx"), reason="tensorrt-rtx is not installed")
no_gpu = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")


def graph(kind: int) -> ModelProto:
    """uint8 frames -> float -> [fp16] product -> float LayerNormalization -> argmax -> uint8: all the types at once."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = np.random.default_rng(0).standard_normal((3, 8)).astype(dtype)
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["float"], ["typed"], to=kind),
        helper.make_node("MatMul", ["typed", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("LayerNormalization", ["wide", "gain"], ["normal"], epsilon=1e-6),
        helper.make_node("ArgMax", ["normal"], ["best"], axis=3, keepdims=0),
        helper.make_node("Cast", ["best"], ["best_float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["best_float"], ["class_map"], to=TensorProto.UINT8),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 8, 8, 3])],
            [helper.make_tensor_value_info("class_map", TensorProto.UINT8, [1, 8, 8])],
            [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.ones(8, np.float32), "gain")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def write(path: Path, model: ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@rtx
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_strongly_typed_engine_is_built_ahead_of_time(tmp_path: Path, kind: int) -> None:
    onnx_path = write(tmp_path / "model.onnx", graph(kind))
    out = tmp_path / engine_name("rtx", "sm86")
    said: list[str] = []
    with heard(said.append):
        record = build_engine(onnx_path, out, "sm86", "rtx")
    assert record.file == f"engines/rtx-{versions.version('rtx')}-sm86.engine"
    assert (record.target, record.builder, record.gpu) == ("sm86", "tensorrt-rtx", None)
    assert record.sha256 == sha256(out)
    assert record.onnx_sha256 == sha256(onnx_path)
    assert out.stat().st_size > 1000
    assert any("sm86" in line for line in said)


@rtx
def test_a_type_clash_is_reported_with_its_node(tmp_path: Path) -> None:
    model = graph(TensorProto.FLOAT16)
    # Without the cast, FP16 meets the FP32 gain of the norm: a strongly typed network must refuse that.
    model.graph.node[4].input[0] = "product"
    del model.graph.node[3]
    onnx_path = write(tmp_path / "model.onnx", model)
    with pytest.raises(EngineError, match=r"node 3 \(LayerNormalization\).*identical types.*expected"):
        build_engine(onnx_path, tmp_path / "x.engine", "sm86", "rtx")
    assert list(tmp_path.iterdir()) == [onnx_path]


@rtx
def test_an_unknown_operation_is_reported_by_name(tmp_path: Path) -> None:
    model = graph(TensorProto.FLOAT)
    model.graph.node[4].op_type = "Conjure"
    with pytest.raises(EngineError, match="Conjure"):
        build_engine(write(tmp_path / "model.onnx", model), tmp_path / "x.engine", "sm86", "rtx")


@rtx
@pytest.mark.parametrize("content", [b"", b"not an ONNX graph", b"\x08\x0a\x12"])
def test_a_corrupt_graph_is_an_error_of_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match="expected"):
        build_engine(path, tmp_path / "x.engine", "sm86", "rtx")


@rtx
def test_a_missing_graph_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        build_engine(tmp_path / "none.onnx", tmp_path / "x.engine", "sm86", "rtx")


@rtx
@pytest.mark.parametrize("target", ["sm87", "sm0", "SM86 ", "orin", ""])
def test_an_unknown_target_lists_the_known_ones(target: str) -> None:
    with pytest.raises(InputError, match=r"sm75.*sm86"):
        check_target(target or "none", "rtx")


@rtx
@no_gpu
def test_rtx_without_target_and_gpu_asks_for_a_target() -> None:
    with pytest.raises(InputError, match=r"without a target and no NVIDIA GPU.*give a target, one of sm75"):
        check_target(None, "rtx")


@rtx
def test_every_known_target_is_one_that_the_record_takes() -> None:
    assert {"sm75", "sm80", "sm86", "sm89"} <= set(known_targets(load("rtx")))
    assert [check_target(target, "rtx") for target in known_targets(load("rtx"))] == list(known_targets(load("rtx")))


@no_gpu
def test_tensorrt_without_a_gpu_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(InputError, match=r"no NVIDIA GPU.*or give a target to build ahead of time"):
        check_target(None, "tensorrt")
    with pytest.raises(InputError, match=r"no NVIDIA GPU.*or use the engine rtx for this target"):
        check_target("sm86", "tensorrt")


@pytest.mark.skipif(versions.available("tensorrt"), reason="tensorrt is installed")
def test_a_missing_tensorrt_says_how_to_get_it() -> None:
    with pytest.raises(MissingDependencyError, match="system-site-packages"):
        versions.version("tensorrt")


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None or not versions.available("tensorrt"), reason="needs a GPU and TensorRT")
def test_tensorrt_builds_for_the_gpu_at_hand(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graph(TensorProto.FLOAT16).SerializeToString())
    gpu = find_gpu()
    built = build_engine(path, tmp_path / "model.engine", None, "tensorrt")
    assert gpu is not None
    assert (built.target, built.gpu) == (gpu.target, gpu.name)
    assert built.sha256 == sha256(tmp_path / "model.engine")
