"""Building on the device with a stand-in GPU: build, verify, first_passing, record."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest

from aselect_runtime import open_model
from aselect_runtime.engines import BuildOptions, add_engines, attempt
from aselect_runtime.engines.parity import Passing, compare, first_passing
from aselect_runtime.engines.precision import check_precision, tensor_types
from aselect_runtime.engines.speed_gate import faster
from aselect_runtime.errors import EngineError, GateError, IntegrityError
from aselect_runtime.files import sha256
from aselect_runtime.records import Engine, Manifest, Precision, Report
from tests.log_lines import heard
from tests.runtime.engines.engine_folder import ENGINE, listed
from tests.runtime.engines.fake_gpu import Machine, fake_machine
from tests.runtime.manifests import small_manifest

WriteModel = Callable[..., Path]


def test_an_engine_is_built_verified_and_recorded(ladder: Path, machine: Machine) -> None:
    said: list[str] = []
    with heard(said.append):
        (engine,) = add_engines(ladder, ())
    assert (engine.file, engine.gpu, engine.target, engine.model) == (ENGINE, "Fake Orin", "sm87", "model.onnx")
    assert engine.agreement == 1.0
    assert listed(ladder) == (engine,)
    assert sha256(ladder / ENGINE) == engine.sha256
    assert (ladder / ENGINE).with_suffix(".timing").read_bytes() == b"times"
    report = Report.load(ladder / "report.json")
    (parity,) = report.parity
    assert (parity.graph, parity.reference) == (f"{ENGINE} (model.onnx)", "onnxruntime cpu, model.onnx")
    assert parity.passed
    assert report.size[ENGINE] == (ladder / ENGINE).stat().st_size
    assert Manifest.load(ladder / "manifest.json").files["report.json"] == sha256(ladder / "report.json")
    assert any("verifying" in line for line in said)
    assert sorted(path.name for path in (ladder / "engines").iterdir()) == [
        ".lock",
        Path(ENGINE).name,
        Path(ENGINE).with_suffix(".timing").name,
    ]
    machine.driver.check_clean()


def test_an_engine_with_wrong_results_is_replaced_by_the_next_graph(ladder: Path, machine: Machine) -> None:
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx"}  # one class everywhere, as TensorRT 10.3 to 10.7 did
    said: list[str] = []
    with heard(said.append):
        (engine,) = add_engines(ladder, ())
    assert engine.model == "model.fp32.onnx"
    assert [parity.passed for parity in Report.load(ladder / "report.json").parity] == [False, False, True]
    assert any("model.onnx" in line and "failed" in line for line in said)
    # Known from now on: it is not built again.
    machine.trt.built.clear()
    _, session = open_model(ladder, "tensorrt")
    session.close()
    assert (session.device, machine.trt.built) == ("tensorrt", [])


def test_the_last_good_engine_stays_if_no_graph_passes(ladder: Path, machine: Machine) -> None:
    add_engines(ladder, ())
    before = {path: path.read_bytes() for path in ladder.rglob("*") if path.is_file()}
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    with pytest.raises(GateError, match="upgrade TensorRT") as raised:
        add_engines(ladder, ())
    assert raised.value.exit_code == 3
    assert {path: path.read_bytes() for path in before} == before
    assert {path.suffix for path in ladder.rglob("*") if path.is_file() and path not in before} == {".failed"}
    machine.driver.check_clean()


def _typed(folder: Path, precision: Precision, dtype: type, names: Sequence[str]) -> None:
    """Give graphs of a folder a precision as far as the stand-in's inspector sees: by a tensor of that type."""
    manifest = Manifest.load(folder / "manifest.json")
    files = dict(manifest.files)
    for name in names:
        model = onnx.load(str(folder / name))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, dtype), "typed"))
        onnx.save(model, str(folder / name))
        files[name] = sha256(folder / name)
    manifest.model_copy(update={"files": files, "precision": precision}).save(folder / "manifest.json")


@pytest.mark.parametrize(
    ("widened", "taken"),
    [
        ((), "model.onnx"),
        (("model.onnx",), "model.mixed.onnx"),
        (("model.onnx", "model.mixed.onnx"), "model.fp32.onnx"),
    ],
)
def test_an_fp16_graph_that_was_silently_built_in_fp32_fails(
    ladder: Path, machine: Machine, widened: tuple[str, ...], taken: str
) -> None:
    _typed(ladder, "fp16", np.float16, ("model.onnx", "model.mixed.onnx"))
    machine.trt.widened = set(widened)
    (engine,) = add_engines(ladder, ())
    assert engine.model == taken
    notes = Report.load(ladder / "report.json").notes
    told = [note for note in notes if "have only 1 fp32 tensors, expected fp16 as" in note]
    assert [note.split(":")[0] for note in told] == list(widened)
    machine.driver.check_clean()


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        (["Half", "Float"], {"fp16": 1, "fp32": 1}),
        (["Row major linear FP16 format", "Channel major FP16 format where channel % 8 == 0"], {"fp16": 2}),
        (["Thirty-two wide channel vectorized row major Int8 format."], {"int8": 1}),
        (["FP8", "BFloat16", "Int32", "UInt8"], {"fp8": 1, "bf16": 1}),
        (["Row major linear FP32", "Int64", "Bool"], {"fp32": 1}),
    ],
)
def test_the_output_of_the_inspector_is_parsed(formats: list[str], expected: dict[str, int]) -> None:
    layers = [
        {"Name": text, "LayerType": "kgen", "Inputs": [], "Outputs": [{"Format/Datatype": text}]} for text in formats
    ]
    assert tensor_types(json.dumps({"Layers": layers, "Bindings": ["frames"]})) == expected


@pytest.mark.parametrize("information", ["", "no JSON", "[]", '{"Layers": ["a name", "another"]}', "{}"])
def test_an_inspector_without_types_is_no_error(information: str) -> None:
    types = tensor_types(information)
    assert not types
    check_precision(types, "model.onnx", small_manifest().model_copy(update={"precision": "fp16"}), "engine")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_that_is_nowhere_in_the_engine_is_an_error(precision: str) -> None:
    manifest = small_manifest().model_copy(update={"precision": precision})
    with pytest.raises(EngineError, match=f"only 12 fp32 tensors, expected {precision} as model.onnx says"):
        check_precision(Counter(fp32=12), "model.onnx", manifest, "engine")
    check_precision(Counter({"fp32": 12, precision: 1}), "model.onnx", manifest, "engine")
    check_precision(Counter(fp32=12), "model.fp32.onnx", manifest, "engine")


def test_when_fp32_answers_wrongly_too_the_message_begins_with_the_upgrade(ladder: Path, machine: Machine) -> None:
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    with pytest.raises(GateError, match=r"^upgrade TensorRT: got engines .*the graph in fp32 misses it too"):
        add_engines(ladder, ())


def test_when_fp32_was_not_tried_the_message_asks_for_it_first() -> None:
    wrong = compare({"scores": np.eye(3)}, {"scores": np.eye(3)[::-1]}, "engine", "reference")
    manifest = small_manifest().model_copy(update={"precision": "fp16"})
    with pytest.raises(GateError, match=r"in INT8 and FP8\); export with the precision fp32, upgrade TensorRT"):
        first_passing(["model.onnx"], lambda rung: rung, lambda rung, built: wrong, manifest.is_fp32)  # noqa: ARG005
    exact = manifest.model_copy(update={"precision": "fp32"})
    with pytest.raises(GateError, match=r"^upgrade TensorRT: .*the graph in fp32 misses it too"):
        first_passing(["model.onnx"], lambda rung: rung, lambda rung, built: wrong, exact.is_fp32)  # noqa: ARG005


def test_a_graph_that_cannot_be_built_gives_way_to_the_next(ladder: Path, machine: Machine) -> None:
    machine.trt.refused = {"model.onnx"}
    assert add_engines(ladder, ())[0].model == "model.mixed.onnx"
    assert "ForeignNode" in Report.load(ladder / "report.json").notes[-1]
    machine.trt.refused = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    with pytest.raises(EngineError, match="ForeignNode"):
        add_engines(ladder, (), BuildOptions(optimization_level=1))


@pytest.mark.usefixtures("machine")
def test_a_folder_without_verification_frames_says_so(tmp_path: Path, write_model: WriteModel) -> None:
    said: list[str] = []
    with heard(said.append):
        (engine,) = add_engines(write_model(tmp_path / "bare"), ())
    assert engine.agreement is None
    assert any("not verified" in line for line in said)


def _packed(
    method: int = zipfile.ZIP_DEFLATED, flags: int = 0, size: int | None = None, damaged: bool = False
) -> bytes:
    """A verify.npz whose directory claims this method, these flags or this size."""
    array = BytesIO()
    np.save(array, np.zeros((1, 24, 32, 3), np.uint8))
    stream = BytesIO()
    known = method if method in {zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA} else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", known) as archive:
        archive.writestr("frames.npy", array.getvalue())
        if size is not None:
            archive.infolist()[0].file_size = size
    data = bytearray(stream.getvalue())
    entry, local = data.rindex(b"PK\x01\x02"), data.index(b"PK\x03\x04")
    data[entry + 8] |= flags
    data[local + 6] |= flags
    data[entry + 10 : entry + 12] = data[local + 8 : local + 10] = method.to_bytes(2, "little")
    if damaged:
        data[local + 52 : local + 60] = b"\xff" * 8
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04nonsense", "expected frames"),
        (None, "whole batches"),
        (b"", "expected frames"),
        (_packed(method=97), "expected frames"),  # WavPack
        (_packed(flags=1), "expected frames"),  # encrypted
        (_packed(damaged=True), "expected frames"),
        (_packed(method=zipfile.ZIP_LZMA, damaged=True), "expected frames"),
        (_packed(size=30 << 30), "30720 MiB of arrays"),
    ],
)
def test_verification_frames_that_are_none(ladder: Path, machine: Machine, content: bytes | None, message: str) -> None:
    if content is None:
        np.savez_compressed(ladder / "verify.npz", frames=np.zeros((3, 5, 5, 3), np.uint8))
    else:
        (ladder / "verify.npz").write_bytes(content)
    with pytest.raises(IntegrityError, match="SHA-256"):
        add_engines(ladder, ())
    manifest = Manifest.load(ladder / "manifest.json")
    files = manifest.files | {"verify.npz": sha256(ladder / "verify.npz")}
    manifest.model_copy(update={"files": files}).save(ladder / "manifest.json")
    with pytest.raises(IntegrityError, match=message):
        add_engines(ladder, ())
    assert machine.trt.built == []


def test_the_known_bad_versions_are_named_before_they_build(ladder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, "10.3.0")
    said: list[str] = []
    with heard(said.append):
        add_engines(ladder, ())
    assert any("with wrong results" in line for line in said)


def _int8(folder: Path) -> Path:
    _typed(folder, "int8", np.int8, ("model.onnx",))
    return folder


@pytest.mark.parametrize(("factor", "taken"), [(1.03, "model.onnx"), (1.01, "model.mixed.onnx")])
def test_an_int8_engine_has_to_be_faster_than_the_next_graph(
    ladder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, factor: float, taken: str
) -> None:
    times = iter([2.0, 2.0 * factor])
    monkeypatch.setattr(attempt, "median_ms", lambda *_: next(times))
    said: list[str] = []
    with heard(said.append):
        (engine,) = add_engines(_int8(ladder), ())
    assert (engine.model, engine.agreement) == (taken, 1.0)
    assert engine.sha256 == sha256(ladder / ENGINE)
    assert machine.trt.built == ["model.onnx", "model.mixed.onnx"]
    rule = f"using {taken}: INT8 must be 1.02 times faster here than the next graph; measured model.onnx 2.00 ms"
    assert any(line.startswith(rule) and "model.mixed.onnx 2.0" in line for line in said)
    report = Report.load(ladder / "report.json")
    assert report.latency == {
        f"{ENGINE} (model.onnx) [ms]": 2.0,
        f"{ENGINE} (model.mixed.onnx) [ms]": pytest.approx(2.0 * factor),
    }
    assert [parity.graph for parity in report.parity][-1] == f"{ENGINE} ({taken})"
    assert not [path for path in (ladder / "engines").iterdir() if path.name.startswith(".candidate")]
    # Measured once: the next start takes what was built.
    machine.trt.built.clear()
    _, session = open_model(ladder, "tensorrt")
    session.close()
    assert machine.trt.built == []
    machine.driver.check_clean()


def test_int8_stays_where_no_other_graph_can_be_built(ladder: Path, machine: Machine) -> None:
    machine.trt.refused = {"model.mixed.onnx", "model.fp32.onnx"}
    (engine,) = add_engines(_int8(ladder), ())
    assert engine.model == "model.onnx"
    assert "no other engine to compare the speed of INT8 with" in Report.load(ladder / "report.json").notes[-1]


@pytest.mark.parametrize(("factor", "taken"), [(1.03, "model.onnx"), (1.01, "model.mixed.onnx")])
def test_the_rule_of_speed_names_the_precision_that_it_is_about(tmp_path: Path, factor: float, taken: str) -> None:
    candidate, digest = tmp_path / "candidate.engine", "0" * 64
    engine = Engine(
        file=ENGINE, sha256=digest, onnx_sha256=digest, builder="tensorrt", version="10.14.1.48", target="sm89"
    )

    def built(rung: str) -> Passing[Engine]:
        candidate.write_text(rung)
        return Passing(rung, engine, (), ())

    latency = {"model.onnx": 2.0, "model.mixed.onnx": 2.0 * factor}
    said: list[str] = []
    with heard(said.append):
        passing = faster(built("model.onnx"), "fp8", lambda: built("model.mixed.onnx"), candidate, latency)
    assert passing.rung == candidate.read_text() == taken
    assert said[0].startswith(f"using {taken}: FP8 must be 1.02 times faster here than the next graph; measured ")
    assert [path.name for path in tmp_path.iterdir()] == [candidate.name]


def _fp8(folder: Path, **changed: object) -> Path:
    """The folder, said to be FP8."""
    manifest = Manifest.load(folder / "manifest.json")
    manifest.model_copy(update={"precision": "fp8", **changed}).save(folder / "manifest.json")
    return folder


def test_a_gpu_without_fp8_gets_the_next_graph(ladder: Path, machine: Machine) -> None:
    said: list[str] = []
    with heard(said.append):
        (engine,) = add_engines(_fp8(ladder), ())
    assert (engine.target, engine.model) == ("sm87", "model.mixed.onnx")
    assert len(machine.trt.built) == 1, "the graph in FP8 was built too"
    assert any("has no FP8" in line for line in said)


def test_fp8_alone_is_refused_by_a_gpu_without_it(ladder: Path, machine: Machine) -> None:
    with pytest.raises(EngineError, match="got a graph in fp8 alone"):
        add_engines(_fp8(ladder, rungs=()), ())
    assert machine.trt.built == []
    assert listed(ladder) == ()
