"""Triton and DeepStream: graphs that answer as the exported ones, and configurations of NVIDIA's own schema."""

from __future__ import annotations

import configparser
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from torch import nn

from aselect_export.commands.export import export as export_command
from aselect_export.exporting import ExportResult
from aselect_export.fleet import Format, deliver, write_deepstream, write_triton
from aselect_export.fleet.deepstream import CONFIG, LABELS, MODEL, PIXELS, PROBABILITIES, config, label_text
from aselect_export.fleet.rewriting import load, planar_input
from aselect_export.graph import specs, trace, without_logits
from aselect_runtime.errors import GateError, InputError
from aselect_runtime.files import sha256
from aselect_runtime.records import ClassInfo, Engine, Manifest, Noise, Resize, Task
from aselect_runtime.sessions.onnx import OnnxSession
from tests.bundles import command

SIZE = (16, 24)
CLASSES = tuple(ClassInfo(name=name, colour=(index, 0, 0)) for index, name in enumerate(("sky", 'ro"ad', "cär")))


class Tiny(nn.Module):
    """Convolution, tokens with attention and back: every reshape that a transformer's graph has."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = self.embed(pixels / 255 - 0.5)
        tokens = maps.flatten(2).transpose(1, 2)  # (N, T, D)
        q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=2))
        mixed = (torch.softmax(q @ k.transpose(2, 3), dim=3) @ v).transpose(1, 2).flatten(2)
        logits: torch.Tensor = self.head(tokens + mixed)
        if self.task == "cls":
            return logits.mean(1)
        planes: torch.Tensor = logits.transpose(1, 2).unflatten(2, maps.shape[2:])
        return planes


def exported(folder: Path, task: Task = "seg", batch: int = 1) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    graph = without_logits(trace(Tiny(task).eval(), task, batch, SIZE, folder))
    source, outputs = specs(graph)
    graph.write(folder / "model.onnx")
    rng = np.random.default_rng(0)
    np.savez(folder / "verify.npz", frames=rng.integers(0, 256, (8, *SIZE, 3), np.uint8))
    Manifest(
        task=task,
        classes=CLASSES,
        resize=Resize(),
        input=source,
        outputs=outputs,
        precision="fp32",
        taps=(),
        noise=Noise(alpha=1, sigma=0, model_timestep=0),
        files={name: sha256(folder / name) for name in ("model.onnx", "verify.npz")},
    ).save(folder / "manifest.json")
    return folder


@pytest.fixture(scope="module", params=["seg", "cls"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("fleet") / request.param, request.param)


@pytest.fixture(scope="module")
def seg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("fleet") / "seg")


def frames(folder: Path) -> Any:
    with np.load(folder / "verify.npz") as arrays:
        return arrays["frames"]


# --- Triton

# Messages, fields, numbers and types of model_config.proto (triton-inference-server/common, as compiled into
# tritonclient 2.73.0): what these tests need of it. 5 int32, 4 uint64, 3 int64, 8 bool, 9 string, 11 message, 14 enum.
SCHEMA: dict[str, list[tuple[str, int, int, bool, str]]] = {
    "ModelConfig": [
        ("name", 1, 9, False, ""),
        ("platform", 2, 9, False, ""),
        ("backend", 17, 9, False, ""),
        ("max_batch_size", 4, 5, False, ""),
        ("input", 5, 11, True, "ModelInput"),
        ("output", 6, 11, True, "ModelOutput"),
        ("dynamic_batching", 11, 11, False, "ModelDynamicBatching"),
        ("instance_group", 7, 11, True, "ModelInstanceGroup"),
        ("default_model_filename", 8, 9, False, ""),
        ("parameters", 14, 11, True, "ParametersEntry"),
    ],
    "ModelInput": [
        ("name", 1, 9, False, ""),
        ("data_type", 2, 14, False, "DataType"),
        ("dims", 4, 3, True, ""),
        ("optional", 8, 8, False, ""),
    ],
    "ModelOutput": [
        ("name", 1, 9, False, ""),
        ("data_type", 2, 14, False, "DataType"),
        ("dims", 3, 3, True, ""),
        ("label_filename", 4, 9, False, ""),
    ],
    "ModelDynamicBatching": [
        ("preferred_batch_size", 1, 5, True, ""),
        ("max_queue_delay_microseconds", 2, 4, False, ""),
    ],
    "ModelInstanceGroup": [("kind", 4, 14, False, "Kind"), ("count", 2, 5, False, ""), ("gpus", 3, 5, True, "")],
    "ParametersEntry": [("key", 1, 9, False, ""), ("value", 2, 11, False, "ModelParameter")],
    "ModelParameter": [("string_value", 1, 9, False, "")],
}
ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP32": 11},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3},
}


def parse(path: Path) -> Any:
    """The configuration, read by protobuf's own strict parser of text."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated, of in fields:
            label = 3 if repeated else 1
            message.field.add(
                name=field, number=number, type=kind, label=label, type_name=f".inference.{of}" if of else None
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind_of = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return text_format.Parse(path.read_text(), kind_of())


def test_a_repository_that_triton_batches_dynamically(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(folder / "manifest.json")
    assert write_triton(folder, tmp_path / "repository") == ()
    model = tmp_path / "repository" / f"aselect_{manifest.task}"
    read = parse(model / "config.pbtxt")
    assert (read.name, read.platform, read.max_batch_size) == (model.name, "onnxruntime_onnx", 8)
    assert read.HasField("dynamic_batching")
    assert list(read.input[0].dims) == list(manifest.input.shape[1:])
    assert {(o.name, tuple(o.dims)) for o in read.output} == {(o.name, o.shape[1:]) for o in manifest.outputs}
    assert json.loads(read.parameters[0].value.string_value)[1]["name"] == 'ro"ad'
    session = OnnxSession(model / "1" / "model.onnx", "cpu")
    original = OnnxSession(folder / "model.onnx", "cpu")
    batch = frames(folder)[:3]
    together = session.infer(batch)
    for index in range(3):
        for name, alone in original.infer(batch[index : index + 1]).items():
            np.testing.assert_allclose(together[name][index], alone[0], atol=1e-5)
    # What Triton requires: the configuration's names and types are the graph's, whose batch is free.
    for node, spec in zip(session._session.get_inputs(), read.input, strict=True):
        assert (node.name, node.shape[1:]) == (spec.name, list(spec.dims))
        assert isinstance(node.shape[0], str)
    assert (model / "labels.txt").read_text().splitlines() == [info.name for info in CLASSES]


def test_a_graph_of_several_frames_stays_as_it_is(tmp_path: Path) -> None:
    folder = exported(tmp_path / "seg", batch=2)
    (note,) = write_triton(folder, tmp_path / "repository")
    assert "each request is 2 frames" in note
    read = parse(tmp_path / "repository" / "aselect_seg" / "config.pbtxt")
    assert read.max_batch_size == 0
    assert not read.HasField("dynamic_batching")
    assert list(read.input[0].dims) == [2, *SIZE, 3]
    written = tmp_path / "repository" / "aselect_seg" / "1" / "model.onnx"
    assert written.read_bytes() == (folder / "model.onnx").read_bytes()


def test_engines_of_tensorrt_come_along_and_those_of_rtx_do_not(seg: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(seg, tmp_path / "seg")
    manifest = Manifest.load(folder / "manifest.json")
    engines = []
    kinds: tuple[tuple[Literal["tensorrt", "tensorrt-rtx"], str], ...] = (("tensorrt", "trt"), ("tensorrt-rtx", "rtx"))
    for builder, name in kinds:
        path = folder / "engines" / f"{name}.engine"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
        engines.append(
            Engine(
                file=f"engines/{name}.engine",
                sha256=sha256(path),
                onnx_sha256=manifest.files["model.onnx"],
                builder=builder,
                version="10.13.0",
                target="sm86",
            )
        )
    manifest.model_copy(update={"engines": tuple(engines)}).save(folder / "manifest.json")
    (note,) = write_triton(folder, tmp_path / "repository")
    assert "rtx.engine was left out" in note
    model = tmp_path / "repository" / "aselect_seg_tensorrt"
    read = parse(model / "config.pbtxt")
    assert (read.platform, read.instance_group[0].kind) == ("tensorrt_plan", ENUMS["Kind"]["KIND_GPU"])
    assert list(read.input[0].dims) == [1, *SIZE, 3]
    assert (model / "1" / "model.plan").read_bytes() == b"trt"


# --- DeepStream

# Keys of the group [property] that are used here, from gstnvinfer_property_parser.h of NVIDIA/DeepStream (2026) and
# the Gst-nvinfer page of the DeepStream documentation, with the values that the page allows.
KEYS: dict[str, set[str] | None] = {
    "gpu-id": None,
    "gie-unique-id": None,
    "process-mode": {"1", "2"},
    "interval": None,
    "onnx-file": None,
    "model-engine-file": None,
    "labelfile-path": None,
    "batch-size": None,
    "network-mode": {"0", "1", "2"},
    "strongly-typed": {"0", "1"},
    "network-type": {"0", "1", "2", "3", "100"},
    "num-detected-classes": None,
    "infer-dims": None,
    "network-input-order": {"0", "1"},
    "model-color-format": {"0", "1", "2"},
    "net-scale-factor": None,
    "offsets": None,
    "maintain-aspect-ratio": {"0", "1"},
    "symmetric-padding": {"0", "1"},
    "scaling-filter": {"0", "1", "2", "3", "4", "5"},
    "output-blob-names": None,
    "segmentation-threshold": None,
    "segmentation-output-order": {"0", "1"},
    "classifier-threshold": None,
}


def read_config(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def nvinfer(model: Path, keys: dict[str, str], frame: Any) -> Any:
    """What nvinfer does to a frame and with the answer, as its documentation and sources say."""
    offsets = np.array([float(value) for value in keys["offsets"].split(";")], np.float32)
    planes = float(keys["net-scale-factor"]) * (frame.astype(np.float32) - offsets).transpose(2, 0, 1)
    channels, height, width = map(int, keys["infer-dims"].split(";"))
    assert planes.shape == (channels, height, width)
    scores = OnnxSession(model, "cpu").infer(planes[None])[keys["output-blob-names"]][0]
    if keys["network-type"] == "1":
        return int(scores.argmax()) if scores.max() > float(keys["classifier-threshold"]) else -1
    best = np.full(scores.shape[1:], -1)
    highest = np.full(scores.shape[1:], -1.0)
    for index, plane in enumerate(scores):
        wins = (plane > highest) & (plane > float(keys["segmentation-threshold"]))
        best[wins], highest[wins] = index, plane[wins]
    return best


def test_nvinfer_is_configured_with_keys_that_it_knows_and_gives_the_same_classes(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(folder / "manifest.json")
    notes = write_deepstream(folder, tmp_path / "ds")
    assert any("bilinearly" in note for note in notes)
    keys = read_config(tmp_path / "ds" / CONFIG)
    for key, value in keys.items():
        allowed = KEYS[key]
        assert allowed is None or value in allowed
    for key in ("onnx-file", "labelfile-path"):
        assert (tmp_path / "ds" / keys[key]).is_file()
    assert (keys["network-mode"], keys["num-detected-classes"]) == ("0", "3")
    original = OnnxSession(folder / "model.onnx", "cpu")
    for frame in frames(folder)[:2]:
        expected = original.infer(frame[None])
        got = nvinfer(tmp_path / "ds" / MODEL, keys, frame)
        if manifest.task == "seg":
            assert (got == expected["class_map"][0]).mean() > 0.999
        else:
            assert got == expected["scores"][0].argmax()


def test_the_graph_is_one_that_nvinfer_can_feed(seg: Path, tmp_path: Path) -> None:
    write_deepstream(seg, tmp_path / "ds")
    model = onnx.load(str(tmp_path / "ds" / MODEL))
    onnx.checker.check_model(model, full_check=True)
    float32 = onnx.TensorProto.FLOAT
    (source,), (output,) = model.graph.input, model.graph.output
    assert (source.name, source.type.tensor_type.elem_type) == (PIXELS, float32)
    assert (output.name, output.type.tensor_type.elem_type) == (PROBABILITIES, float32)
    assert [side.dim_value for side in output.type.tensor_type.shape.dim] == [1, 3, *SIZE]
    assert "ArgMax" not in {node.op_type for node in model.graph.node}


def test_labels(folder: Path) -> None:
    manifest = Manifest.load(folder / "manifest.json")
    text = label_text(manifest)
    assert text == ('sky\nro"ad\ncär\n' if manifest.task == "seg" else 'sky;ro"ad;cär\n')
    parted = (ClassInfo(name="a;b", colour=(0, 0, 0)), *CLASSES[1:])
    if manifest.task == "cls":
        with pytest.raises(InputError, match="no semicolon"):
            label_text(manifest.model_copy(update={"classes": parted}))


def test_letterboxing_and_precision_are_configured_for_nvinfer(seg: Path) -> None:
    manifest = Manifest.load(seg / "manifest.json")
    letterbox = manifest.model_copy(update={"resize": Resize(mode="letterbox", interpolation="linear")})
    assert "maintain-aspect-ratio=1\nsymmetric-padding=1\n" in config(letterbox)
    for precision in ("fp16", "int8"):  # nvinfer replaces an INT8 mode without a calibration file by FP16
        written = config(manifest.model_copy(update={"precision": precision}))
        assert "network-mode=2\n" in written
        assert f"model-engine-file=model.deepstream.onnx_b{manifest.input.shape[0]}_gpu0_fp16.engine\n" in written


# --- what cannot be done


@pytest.mark.parametrize("write", [write_triton, write_deepstream])
def test_a_folder_that_is_not_ours_is_not_replaced(seg: Path, tmp_path: Path, write: Any) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    with pytest.raises(InputError, match="choose another path"):
        write(seg, tmp_path / "photos")
    for name in ("config_infer.txt", "triton.json"):
        (tmp_path / "photos" / name).write_text("[property]")
    with pytest.raises(InputError, match="choose another path"):
        write(seg, tmp_path / "photos")
    assert len(list((tmp_path / "photos").iterdir())) == 3
    for _ in range(2):  # one of ours is
        write(seg, tmp_path / "out")
        (tmp_path / "out" / "mine.txt").touch()
    assert (tmp_path / "out" / "mine.txt").exists()
    assert not list((tmp_path / "out").rglob("*.kept"))


def test_a_foreign_graph_is_refused(write_model: Any, tmp_path: Path) -> None:
    """The tiny model of the runtime's tests has no Transpose at its beginning."""
    with pytest.raises(InputError, match="expected Transpose"):
        write_deepstream(write_model(tmp_path / "foreign"), tmp_path / "ds")
    assert not (tmp_path / "ds").exists()
    with pytest.raises(InputError, match="expected Transpose"):
        planar_input(load(tmp_path / "foreign" / "model.onnx"), PIXELS)


def test_a_graph_that_answers_otherwise_is_not_written(
    seg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = planar_input

    def swapped(model: onnx.ModelProto, name: str) -> None:
        real(model, name)
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        values = onnx.numpy_helper.to_array(weight)[:, ::-1] * 50
        weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), weight.name))

    monkeypatch.setattr("aselect_export.fleet.deepstream.planar_input", swapped)
    with pytest.raises(GateError, match="same class as"):
        write_deepstream(seg, tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize(("layout", "file"), [("triton", "aselect_seg/config.pbtxt"), ("deepstream", CONFIG)])
def test_the_command(
    layout: str, file: str, seg_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / layout
    arguments = ["--model", str(seg_bundle), "--precision", "fp32", "--format", layout]
    assert command(export_command, monkeypatch, *arguments, "--out", str(out)) == 0
    assert (out / file).is_file()
    said = capsys.readouterr().out
    assert str(out) in said
    assert "aselect-build" not in said, "that is no way to an engine there"
    listed = {line.split("MB")[1].strip() for line in said.splitlines() if " MB " in line and "weights of" not in line}
    assert listed == {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert [path.name for path in tmp_path.iterdir()] == [layout]


@pytest.mark.parametrize("layout", ["folder", "triton", "deepstream"])
def test_a_place_below_a_file_is_one_line(
    seg_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layout: str,
) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = ["--model", str(seg_bundle), "--format", layout, "--out", str(tmp_path / "file" / "out")]
    assert command(export_command, monkeypatch, *arguments) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/file/out: could not write (Not a directory)")


def test_an_unknown_format_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(export_command, monkeypatch, "--task", "seg", "--format", "onnx") == 2
    told = capsys.readouterr().err
    assert "--format" in told
    assert all(name in told for name in ("folder", "triton", "deepstream"))


def test_labels_are_utf_8(folder: Path, tmp_path: Path) -> None:
    write_deepstream(folder, tmp_path / "ds")
    assert "cär" in (tmp_path / "ds" / LABELS).read_text(encoding="utf-8")


@pytest.mark.parametrize("layout", ["triton", "deepstream"])
@pytest.mark.parametrize("where", ["new", "working folder", "mount point"])
def test_the_export_that_a_fleet_is_written_from_lies_on_the_file_system_of_out(
    layout: Format, where: str, tmp_path: Path, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_disk("1m") if where == "mount point" else tmp_path / "out"
    if where == "working folder":
        out.mkdir()
        monkeypatch.chdir(out)
    made: list[Path] = []

    def make(folder: Path) -> ExportResult:
        made.append(folder)
        assert folder.parent.stat().st_dev == (out.stat() if out.exists() else tmp_path.stat()).st_dev
        raise GateError("no graph")

    with pytest.raises(GateError, match="no graph"):
        deliver(layout, make, out)
    (folder,) = made
    assert folder.is_relative_to(out) == (where != "new")
    assert not folder.parent.exists()
    assert not out.exists() or list(out.iterdir()) == []
