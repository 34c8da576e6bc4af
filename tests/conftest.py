"""Fixtures: tiny ONNX models with the outputs of the real ones, a short video, a tiny backbone, labelled streets."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores: threads of each would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import hypothesis
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aselect_runtime import open_model
from aselect_runtime.files import sha256
from aselect_runtime.records import Manifest, Resize, Task
from aselect_runtime.sessions import latency
from aselect_runtime.sessions.onnx import METADATA_KEY
from tests.runtime.engines.engine_folder import add_rungs
from tests.runtime.engines.fake_gpu import Machine, fake_machine
from tests.runtime.manifests import small_manifest
from tests.streets import write_streets

if TYPE_CHECKING:
    from aselect_export.exporting import ExportResult

hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")  # an emulated or busy processor may take any time

WriteModel = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _own_signals() -> None:
    """Processes that tests start react to signals even if the tests run under nohup or in the background of a shell."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # a handler is not inherited: children have the default
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept for the next start goes to a folder of the tests, also that of processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(latency, "SECONDS", 0.0)  # which backend is the faster one is not what tests ask
        yield


@pytest.fixture(scope="session")
def _states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders; `mktemp` would look through all those of the tests before."""
    root = tmp_path_factory.mktemp("states")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_state(_states: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine remembers of its engines, and which lines the log takes, for one test."""
    logging.getLogger().setLevel(logging.WARNING)  # an earlier test may have been stopped while it listened
    folder = next(_states)
    folder.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


@pytest.fixture(scope="session")
def write_model() -> WriteModel:
    """`write_model(folder, task="seg", batch=1, resize=None)`: an export folder that ONNX Runtime runs."""
    return export_folder


@pytest.fixture(scope="session")
def seg_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export folder of a segmentation model with the classes dark, middle and bright."""
    return _started(export_folder(tmp_path_factory.mktemp("models") / "seg"))


@pytest.fixture(scope="session")
def cls_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export folder of a classification model with the classes dark, middle and bright."""
    return _started(export_folder(tmp_path_factory.mktemp("models") / "cls", "cls"))


def _started(folder: Path) -> Path:
    """The folder, opened once: only the first start measures the backends, and says so."""
    open_model(folder)[1].close()
    return folder


@pytest.fixture
def ladder(tmp_path: Path, write_model: WriteModel) -> Path:
    """An export folder with two fallback rungs, verification frames and a report."""
    return add_rungs(write_model(tmp_path / "seg"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A device with TensorRT and a stand-in GPU."""
    return fake_machine(monkeypatch)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 12 frames at 10 fps, 96x128: the left half black, the right half white."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (128, 96))
    frame = np.zeros((96, 128, 3), np.uint8)
    frame[:, 64:] = 255
    for _ in range(12):
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("16k")`: the mount point of an empty file system of this size."""
    places: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small file system needs root")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """PEM files of a certificate for localhost, signed by itself, and of its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(files[1])]
    command = [openssl, "req", "-x509", "-days", "2", *key, *names, "-out", str(files[0])]
    subprocess.run(command, check=True, capture_output=True)
    return files


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Training without its report, which takes longer than the training of most tests; others draw it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aselect_edge.training.run.draw_report", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a DiT with random weights: 3 blocks of width 32, patches of 4x4."""
    import torch  # here, so that the runtime's tests start without it

    from aselect_edge.backbones import DiT, DiTConfig, save_backbone
    from aselect_edge.backbones.noise import DIT_SCHEDULE

    torch.manual_seed(0)
    model = DiT(DiTConfig(2, 16, 3, num_layers=3, patch_size=4, sample_size=16, num_embeds_ada_norm=3), tied=True)
    for parameter in model.parameters():  # adaLN-Zero starts at zero, which would hide most mistakes
        torch.nn.init.normal_(parameter, std=0.15)
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(model, DIT_SCHEDULE, folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def seg_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a segmentation model with random weights."""
    from tests.bundles import write_bundle  # here, so that the runtime's tests start without torch

    return write_bundle(tmp_path_factory.mktemp("bundle") / "seg")


@pytest.fixture(scope="session")
def seg_export(seg_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """That bundle exported to fp16, with its fallback graphs and, where TensorRT-RTX is installed, an engine."""
    from aselect_export.exporting import export, open_bundle
    from aselect_runtime.engines.versions import available

    targets = ("sm86",) if available("rtx") else ()
    out = tmp_path_factory.mktemp("export") / "seg-fp16"
    return export(open_bundle("seg", seg_bundle), "fp16", out, targets=targets)


@pytest.fixture(scope="session")
def cls_export(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """A classifier exported to fp32 for two frames of 8x40."""
    from aselect_export.exporting import export, open_bundle
    from tests.bundles import write_bundle

    root = tmp_path_factory.mktemp("classifier")
    bundle = open_bundle("cls", write_bundle(root / "cls", "cls"))
    return export(bundle, "fp32", root / "out", batch=2, imgsz=(8, 40), engine="none")


@pytest.fixture(scope="session")
def labelled(seg_export: ExportResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose labels are the exported fp32 graph's own answers, at twice the model's size."""
    from aselect_runtime import open_model
    from aselect_runtime.scenes import CLASSES, Street

    root = tmp_path_factory.mktemp("data")
    _, session = open_model(seg_export.folder / "model.fp32.onnx", "cpu")
    height, width = seg_export.manifest.input.shape[1:3]
    for part in ("images", "labels"):
        (root / "test" / part).mkdir(parents=True)
    for index in range(2):
        frame, _ = Street(seed=index, height=2 * height, width=2 * width).frame(30)
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        answer = session.infer(np.asarray(small[None], np.uint8))["class_map"][0]
        cv2.imwrite(str(root / f"test/images/{index}.png"), frame)
        cv2.imwrite(str(root / f"test/labels/{index}.png"), answer.repeat(2, axis=0).repeat(2, axis=1))
    classes = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    return root


@pytest.fixture(scope="session")
def street_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as CamVid's: 6 streets in train, 3 in val, 48x64, eleven classes; sky and road alone cover half."""
    return write_streets(tmp_path_factory.mktemp("streets"))


def export_folder(folder: Path, task: Task = "seg", batch: int = 1, resize: Resize | None = None) -> Path:
    """An export folder whose model classifies the blue channel: dark (below 64), middle, bright (from 192)."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = small_manifest(task, batch, resize)
    graph = _segmentation(manifest) if task == "seg" else _classification(manifest)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, str(folder / "model.onnx"))
    manifest.model_copy(update={"files": {"model.onnx": sha256(folder / "model.onnx")}}).save(folder / "manifest.json")
    return folder


def _brightness() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Blue channel [N, H, W] as float32 -> distance to each class's grey value, negated, [N, H, W, 3]."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["floats", "zero", "one", "channel"], ["blue"]),
        helper.make_node("Sub", ["blue", "greys"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["logits"]),
    ]
    constants: dict[str, np.ndarray[Any, Any]] = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "channel": np.array([3], np.int64),
        "greys": np.array([0, 128, 255], np.float32),
    }
    return nodes, [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]


def _segmentation(manifest: Manifest) -> onnx.GraphProto:
    nodes, constants = _brightness()
    nodes += [
        helper.make_node("ArgMax", ["logits"], ["indices"], axis=-1, keepdims=0),
        helper.make_node("Cast", ["indices"], ["class_map"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["logits"], ["confidence"], axes=[-1], keepdims=0),
    ]
    return _graph(nodes, constants, manifest)


def _classification(manifest: Manifest) -> onnx.GraphProto:
    nodes, constants = _brightness()
    nodes += [
        helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["scores"], axis=-1),
    ]
    return _graph(nodes, constants, manifest)


def _graph(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], manifest: Manifest) -> onnx.GraphProto:
    types = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, manifest.input.shape)
    results = [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in manifest.outputs]
    return helper.make_graph(nodes, "grey", [frames], results, constants)
