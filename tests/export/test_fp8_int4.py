"""FP8 and INT4 weights end to end: what the graphs hold, what runs and builds them, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from aselect_calibration.int4 import BLOCK
from aselect_calibration.settings import Int8Settings
from aselect_export import schemes
from aselect_export.api import export as export_by_name
from aselect_export.commands.export import export as export_command
from aselect_export.exporting import ExportResult, export, open_bundle
from aselect_export.fleet import write_deepstream
from aselect_runtime import open_model
from aselect_runtime.engines import add_engines, build_engine
from aselect_runtime.engines.versions import available
from aselect_runtime.errors import GateError, InputError
from aselect_runtime.files import check_files
from tests.bundles import command, write_bundle

LENIENT = Int8Settings(images=4, max_drop=0.2)
rtx = pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(schemes, "cache_folder", lambda _: folder)
        yield


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose linear layers have 64 and 256 inputs, in whole blocks of INT4."""
    return write_bundle(tmp_path_factory.mktemp("wide") / "bundle", heads=4)


@pytest.fixture(scope="module")
def fp8(wide_bundle: Path, street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    out = tmp_path_factory.mktemp("export") / "seg-fp8"
    return export(open_bundle("seg", wide_bundle), "fp8", out, data=street_data, int8=LENIENT, engine="none")


@pytest.fixture(scope="module")
def int4(wide_bundle: Path, street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    out = tmp_path_factory.mktemp("export") / "seg-int4"
    bundle = open_bundle("seg", wide_bundle)
    return export(bundle, "fp16", out, weights="int4", data=street_data, int8=LENIENT, engine="none")


def e4m3(byte: int) -> float:
    """The value of a byte in E4M3FN: bias 7, 3 bits of mantissa, no infinity (OCP 8-bit floating point, 2023)."""
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if sign else size


def traced_weights(result: ExportResult) -> dict[str, np.ndarray]:
    """The weights of the FP32 graph of the same folder, by the name of the node that reads them."""
    model = onnx.load(result.folder / "model.fp32.onnx")
    stored = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    return {
        node.name: stored[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in stored
    }


# FP8


def test_fp8_weights_are_the_float_weights_rounded_to_e4m3(fp8: ExportResult) -> None:
    model = onnx.load(fp8.folder / "model.onnx")
    stored = {weight.name: weight for weight in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    values = np.array([e4m3(byte) for byte in range(256)])
    checked = 0
    for name, expected in traced_weights(fp8).items():
        (node,) = (node for node in model.graph.node if node.name == name)
        back = makers.get(node.input[1])
        if back is None or not name.endswith(("mlp.out.MatMul", "attention.out.MatMul")):
            continue  # those after a norm are smoothed before: other values for the same function
        levels, scale = stored[back.input[0]], numpy_helper.to_array(stored[back.input[1]])
        assert levels.data_type == TensorProto.FLOAT8E4M3FN
        assert scale.dtype == np.float16
        raw = np.frombuffer(levels.raw_data, np.uint8).reshape(expected.shape)
        got = values[raw] * scale.astype(np.float64)
        # 3 bits of mantissa: half a step is 1/16 of the value, and of a subnormal half of 2^-9 scales.
        assert (np.abs(got - expected) <= np.abs(expected) / 16 + scale * 2.0**-10 + 1e-7).all()
        checked += 1
    assert checked >= 3


def test_only_linear_layers_are_fp8_and_activations_are_quantised_per_tensor(fp8: ExportResult) -> None:
    model = onnx.load(fp8.folder / "model.onnx")
    stored = {weight.name: weight for weight in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    dequantised = {node.output[0] for node in makers.values() if node.op_type == "DequantizeLinear"}
    read = [node for node in model.graph.node if node.input[0] in dequantised]
    assert {node.op_type for node in read} == {"MatMul"}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert stored[node.input[2]].data_type == TensorProto.FLOAT8E4M3FN
            assert not stored[node.input[1]].dims
    found = fp8.report.quantisation
    assert found is not None
    assert (found.form, found.method, found.rest, found.metric) == ("fp8", "minmax", "fp16", "miou")
    assert len(read) == sum(layer.int8 for layer in found.layers)


@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_the_answers_are_close_and_the_folder_is_complete(kind: str, request: pytest.FixtureRequest) -> None:
    result: ExportResult = request.getfixturevalue(kind)
    check_files(result.folder, result.manifest.files)
    assert result.manifest.rungs == ("model.fp16.onnx", "model.mixed.onnx", "model.fp32.onnx")
    assert (result.manifest.precision, result.manifest.weights) == {"fp8": ("fp8", None), "int4": ("fp16", "int4")}[
        kind
    ]
    with np.load(result.folder / "verify.npz") as arrays:
        frames, expected = arrays["frames"], arrays["class_map"]
    assert len(np.unique(expected)) >= 3
    for name in ("cpu", "openvino"):
        if name == "openvino":
            pytest.importorskip("openvino")
        manifest, session = open_model(result.folder, name)
        assert manifest == result.manifest
        got = np.concatenate([session.infer(frame[None])["class_map"] for frame in frames])
        assert (got == expected).mean() > 0.95
        session.close()
    alone, session = open_model(result.folder / "model.fp16.onnx", "cpu")
    session.close()
    assert (alone.precision, alone.weights) == ("fp16", None)


@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_the_report_has_the_bytes_before_and_after(kind: str, request: pytest.FixtureRequest) -> None:
    result: ExportResult = request.getfixturevalue(kind)
    found = json.loads((result.folder / "report.json").read_text())["quantisation"]
    size = {name: (result.folder / name).stat().st_size for name in ("model.onnx", "model.fp16.onnx")}
    # The file has the manifest in its metadata, and not the logits as an output.
    assert found["bytes_after"] == pytest.approx(size["model.onnx"], rel=0.05)
    assert found["bytes_before"] == pytest.approx(size["model.fp16.onnx"], rel=0.05)
    assert found["bytes_after"] < found["bytes_before"]


# INT4


def test_int4_weights_are_within_half_a_step_of_the_float_weights(int4: ExportResult) -> None:
    model = onnx.load(int4.folder / "model.onnx")
    assert model.opset_import[0].version == 21
    stored = {weight.name: weight for weight in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = int4.report.quantisation
    assert found is not None
    assert (found.form, found.method, found.calibrated_on) == ("int4", None, None)
    for name, expected in traced_weights(int4).items():
        (node,) = (node for node in model.graph.node if node.name == name)
        back = makers.get(node.input[1])
        assert (back is not None) == (name.removesuffix(".MatMul") in {one.layer for one in found.layers if one.int8})
        if back is None:
            continue
        assert {item.name: item.i for item in back.attribute} == {"axis": 0, "block_size": BLOCK}
        levels, scales = (numpy_helper.to_array(stored[source]) for source in back.input)
        steps = np.repeat(scales.astype(np.float32), BLOCK, axis=0)
        error = np.abs(levels.astype(np.float32) * steps - expected)
        # Half a step, or for the few that saturate at most the fifth of the largest of the block that was cut off.
        largest = np.repeat(np.abs(expected.reshape(-1, BLOCK, expected.shape[1])).max(1), BLOCK, axis=0)
        assert (error <= np.maximum(steps / 2, 0.201 * largest) + 1e-6).all()
        assert (error > steps / 2 + 1e-6).mean() < 0.05


def test_onnx_runtime_multiplies_int4_weights_in_one_kernel(wide_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bundle = open_bundle("seg", wide_bundle)
    result = export(bundle, "fp32", out, weights="int4", int8=Int8Settings(max_drop=0.2), engine="none")
    assert result.manifest.rungs == ("model.fp32.onnx",)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(out / "model.onnx", options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert result.report.quantisation is not None
    assert kinds.count("MatMulNBits") == sum(layer.int8 for layer in result.report.quantisation.layers) > 0
    assert "DequantizeLinear" not in kinds


# engines


@rtx
@pytest.mark.parametrize(("kind", "target"), [("fp8", "sm89"), ("fp8", "sm120"), ("int4", "sm86"), ("int4", "sm120")])
def test_tensorrt_builds_it(kind: str, target: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    result: ExportResult = request.getfixturevalue(kind)
    build_engine(result.folder / "model.onnx", tmp_path / "an.engine", target, "rtx")
    assert (tmp_path / "an.engine").stat().st_size > 10_000


@rtx
def test_fp8_is_refused_for_a_target_without_it_before_anything_is_written(
    fp8: ExportResult, wide_bundle: Path, tmp_path: Path
) -> None:
    told = "got the target sm86 for a graph in fp8, expected sm89 or newer"
    with pytest.raises(InputError, match=told):
        export(open_bundle("seg", wide_bundle), "fp8", tmp_path / "out", targets=("sm89", "sm86"))
    assert not list(tmp_path.iterdir())
    before = sorted(path.name for path in fp8.folder.rglob("*"))
    with pytest.raises(InputError, match=told):
        add_engines(fp8.folder, ["sm89", "sm86"])
    assert sorted(path.name for path in fp8.folder.rglob("*")) == before


# what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "int8", "weights": "int4"}, "got int4 weights with the precision int8"),
        ({"precision": "fp8", "weights": "int4"}, "got int4 weights with the precision fp8"),
        ({"precision": "fp16", "weights": "int3"}, "int3"),
        ({"precision": "fp8", "rest": "fp32"}, "got fp32 for the other layers with fp8, expected fp16"),
        ({"precision": "fp32", "weights": "int4", "rest": "fp16"}, "got fp16 for the other layers with int4"),
        ({"precision": "fp16", "weights": "int4", "allow_mixed": True}, "got allow mixed with int4"),
        ({"precision": "fp8", "format": "deepstream"}, "got the precision fp8 with the format deepstream"),
        ({"precision": "fp8", "format": "triton"}, "got the precision fp8 with the format triton"),
        ({"precision": "fp8"}, "no such file, and no data"),
    ],
)
def test_a_request_that_cannot_be_met_writes_nothing(
    given: dict[str, object], message: str, wide_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        export_by_name("seg", model=wide_bundle, out=tmp_path / "out", engine="none", **given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_fp8_has_no_deepstream_configuration(fp8: ExportResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got the precision fp8, expected fp32, fp16 or int8 for nvinfer"):
        write_deepstream(fp8.folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_beyond_the_allowed_drop_nothing_is_written(wide_bundle: Path, street_data: Path, tmp_path: Path) -> None:
    given = {"model": wide_bundle, "data": street_data / "train", "max_drop": 0.0}
    with pytest.raises(GateError, match=r"int4: the best result loses .* of agreement") as caught:
        export_by_name("seg", weights="int4", out=tmp_path / "out", engine="none", **given)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert not list(tmp_path.iterdir())


def test_the_command_takes_weights(
    wide_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--task", "seg", "--model", str(wide_bundle), "--weights", "int4", "--max-drop", "0.2", "--engine", "none"]
    assert command(export_command, monkeypatch, *given, "--no-ladder", "--out", str(tmp_path / "out"), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rung"], result["manifest"]["weights"]) == ("int4", "int4")
    assert result["report"]["quantisation"]["form"] == "int4"
    assert "INT4" in (tmp_path / "out" / "card.html").read_text()
    assert command(export_command, monkeypatch, *given, "--precision", "int8", "--out", str(tmp_path / "no")) == 1
    assert "--weights" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
