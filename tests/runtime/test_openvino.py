"""OpenVINO beside ONNX Runtime: the same answers, the same errors, and no call to anybody."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aselect_runtime import open_model
from aselect_runtime.errors import EngineError, IntegrityError, MissingDependencyError
from aselect_runtime.records import Manifest, TensorSpec
from aselect_runtime.sessions.onnx import METADATA_KEY, OnnxSession

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")

from aselect_runtime.sessions.openvino import OpenVinoSession
from aselect_runtime.sessions.unsigned import make_unsigned, quantises


def _network(path: Path, half: bool) -> Path:
    """Frames -> convolution -> attention-like product -> softmax, in float16 between its casts if `half`."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    random = np.random.default_rng(5)
    dtype = np.float16 if half else np.float32
    weights = {
        "kernel": (random.normal(size=(16, 3, 4, 4)) / 7).astype(dtype),
        "mixer": (random.normal(size=(16, 5)) / 2).astype(dtype),
        "scale": np.array(1 / 255, dtype),
        "rows": np.array([0, 16, -1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["cast"], to=kind),
        helper.make_node("Mul", ["cast", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["patches"], strides=[4, 4]),
        helper.make_node("Reshape", ["patches", "rows"], ["channels"]),
        helper.make_node("Transpose", ["channels"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "channels"], ["affinity"]),
        helper.make_node("Softmax", ["affinity"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "tokens"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "mixer"], ["logits"]),
        helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["mean"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["wide"], ["scores"], axis=-1),
    ]
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 24, 32, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", [frames], [scores], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_segmentation_answers_as_onnx_runtime_does(seg_model: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), np.uint8)
    mine, reference = OpenVinoSession(seg_model / "model.onnx"), OnnxSession(seg_model / "model.onnx", "cpu")
    got, wanted = mine.infer(frames), reference.infer(frames)
    assert set(got) == {"class_map", "confidence"}
    assert got["class_map"].dtype == np.uint8
    np.testing.assert_array_equal(got["class_map"], wanted["class_map"])
    np.testing.assert_allclose(got["confidence"], wanted["confidence"], rtol=1e-5)
    mine.close()
    reference.close()


@pytest.mark.parametrize("half", [False, True])
def test_matrix_products_agree_in_both_precisions(tmp_path: Path, half: bool) -> None:
    path = _network(tmp_path / "tiny.onnx", half)
    frames = np.random.default_rng(1).integers(0, 256, (1, 24, 32, 3), np.uint8)
    got = OpenVinoSession(path).infer(frames)["scores"]
    wanted = OnnxSession(path, "cpu").infer(frames)["scores"]
    assert wanted.max() > 0.3  # scores that all are 1/5 would agree whatever happens
    np.testing.assert_allclose(got, wanted, atol=3e-3 if half else 1e-5)


def test_results_outlive_the_next_call(seg_model: Path) -> None:
    session = OpenVinoSession(seg_model / "model.onnx")
    first = session.infer(np.zeros((1, 24, 32, 3), np.uint8))["class_map"]
    session.infer(np.full((1, 24, 32, 3), 255, np.uint8))
    assert set(first.ravel()) == {0}


def test_a_single_file_contains_its_manifest_and_is_checked(seg_model: Path) -> None:
    session = OpenVinoSession(seg_model / "model.onnx")
    manifest = Manifest.parse(session.metadata()[METADATA_KEY])
    session.check(manifest)
    other = manifest.model_copy(update={"input": TensorSpec(name="frames", dtype="uint8", shape=(1, 48, 32, 3))})
    with pytest.raises(IntegrityError, match=r"expected .*48, 32"):
        session.check(other)


def test_a_file_of_somebody_else_has_no_metadata(tmp_path: Path) -> None:
    assert METADATA_KEY not in OpenVinoSession(_network(tmp_path / "tiny.onnx", False)).metadata()


@pytest.mark.parametrize("keep", [0, 200])
def test_truncated_models(seg_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], keep: int) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes((seg_model / "model.onnx").read_bytes()[:keep])
    with pytest.raises(IntegrityError, match=r"broken\.onnx: OpenVINO cannot load it"):
        OpenVinoSession(path)
    assert capfd.readouterr().err == ""


def test_frames_of_another_shape(seg_model: Path) -> None:
    session = OpenVinoSession(seg_model / "model.onnx")
    with pytest.raises(EngineError, match=r"expected results for uint8 \[1, 2, 2, 3\]"):
        session.infer(np.zeros((1, 2, 2, 3), np.uint8))


def test_missing_openvino_says_how_to_get_it(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"aselect-runtime\[openvino\]"):
        OpenVinoSession(seg_model / "model.onnx")


def test_auto_takes_openvino_for_a_single_file_on_x86(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("aselect_runtime.backends.available", lambda: ["cpu"])
    assert open_model(seg_model / "model.onnx", "auto")[1].device == "openvino"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert open_model(seg_model / "model.onnx", "auto")[1].device == "cpu"


@pytest.mark.parametrize("lone", [False, True])
def test_openvino_by_name(seg_model: Path, lone: bool) -> None:
    manifest, session = open_model(seg_model / "model.onnx" if lone else seg_model, "openvino")
    assert session.device == "openvino"
    assert set(session.infer(np.zeros(manifest.input.shape, np.uint8))) == {"class_map", "confidence"}


def _quantised(path: Path) -> Path:
    """Two INT8 convolutions of different scales, concatenated; the answer is in multiples of 0.05 and 0.1."""
    random = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {
        "unit": np.array(1 / 64, np.float32),
        "zero": np.array(0, np.int8),
        "zeros": np.zeros(8, np.int8),
        "scale": np.array(0.03, np.float32),
        "scales": np.full(8, 0.01, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "unit"], ["input"]),
        helper.make_node("Transpose", ["input"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["planes", "scale", "zero"], ["input.int8"]),
        helper.make_node("DequantizeLinear", ["input.int8", "scale", "zero"], ["input.back"]),
    ]
    for name, scale in (("fine", 0.05), ("coarse", 0.1)):
        constants |= {f"{name}.scale": np.array(scale, np.float32)}
        constants |= {f"{name}.weight": random.integers(-127, 128, (8, 3, 1, 1)).astype(np.int8)}
        quantisation = [f"{name}.scale", "zero"]
        nodes += [
            helper.make_node("DequantizeLinear", [f"{name}.weight", "scales", "zeros"], [f"{name}.kernel"], axis=0),
            helper.make_node("Conv", ["input.back", f"{name}.kernel"], [f"{name}.sums"]),
            helper.make_node("QuantizeLinear", [f"{name}.sums", *quantisation], [f"{name}.int8"]),
            helper.make_node("DequantizeLinear", [f"{name}.int8", *quantisation], [name]),
        ]
    nodes.append(helper.make_node("Concat", ["fine", "coarse"], ["answer"], axis=1))
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 24, 32, 3])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 16, 24, 32])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "quantised", [frames], [answer], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def test_int8_values_are_those_of_the_graph(tmp_path: Path) -> None:
    path = _quantised(tmp_path / "quantised.onnx")
    frames = np.random.default_rng(1).integers(0, 256, (1, 24, 32, 3), np.uint8)
    (found,) = ReferenceEvaluator(str(path)).run(None, {"frames": frames})
    wanted = np.asarray(found)
    got = OpenVinoSession(path).infer(frames)["answer"]
    assert len(np.unique(wanted.round(3))) > 200
    steps = np.abs(got - wanted) / np.repeat([0.05, 0.1], 8)[:, None, None]
    assert steps.max() < 1.01  # a value between two levels may be rounded to either
    assert (steps > 0.01).mean() < 0.05


def test_every_signed_quantisation_becomes_unsigned(tmp_path: Path) -> None:
    import openvino

    path = _quantised(tmp_path / "quantised.onnx")
    assert quantises(path)
    model = openvino.Core().read_model(str(path))
    assert make_unsigned(openvino, model) == 3
    assert make_unsigned(openvino, model) == 0
    kinds = [node.get_output_element_type(0) for node in model.get_ordered_ops() if node.get_type_name() == "Convert"]
    assert kinds.count(openvino.Type.u8) == 3
    assert not quantises(_network(tmp_path / "tiny.onnx", half=False))
