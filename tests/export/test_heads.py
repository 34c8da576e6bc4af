"""Every head of every task as part of the exported graph: exact, plain, in every precision, taken by TensorRT."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from aselect_calibration import Int8Weights, calibrate, calibration_frames, find_layers, prepare, quantised
from aselect_calibration.graphs import exposing
from aselect_calibration.layers import Layer
from aselect_calibration.weights import Graph, WeightFile
from aselect_edge.bundle import load_bundle
from aselect_export.commands.export import export as export_command
from aselect_export.exporting import ExportResult, export
from aselect_export.graph import LOGITS, without_logits
from aselect_export.verify import Answer, Rung, compare
from aselect_runtime.commands.run import run
from aselect_runtime.engines import build_engine
from aselect_runtime.engines.versions import available
from aselect_runtime.frames import Frame
from aselect_runtime.records import HeadKind, Manifest, Report, Resize, Task
from aselect_runtime.scenes import CLASSES, Street
from tests.bundles import DEPTH, SIZE, command, write_bundle
from tests.export.test_graph import FORBIDDEN, operations

HEADS: list[tuple[Task, HeadKind]] = [("cls", "linear"), ("cls", "attention"), ("seg", "edge")]
"""Segmentation's other heads are in the exports of the other tests; a trace takes seconds."""
NORMS = {"linear": 1, "edge": 1, "attention": 6}
"""LayerNormalization nodes of a head: before it, two in each transformer block, one before the last layer."""


@dataclass(frozen=True)
class Made:
    """A tiny bundle with one kind of head, and its export in half precision with all fallback graphs."""

    task: Task
    kind: HeadKind
    bundle: Path
    result: ExportResult

    def graph(self, name: str) -> ModelProto:
        return onnx.load(self.result.folder / name)


@pytest.fixture(scope="module", params=HEADS, ids="-".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    task, kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    bundle = write_bundle(folder / "bundle", task, kind=kind)
    return Made(task, kind, bundle, export(load_bundle(bundle), "fp16", folder / "out", engine="none"))


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames without labels."""
    folder = tmp_path_factory.mktemp("streets")
    for seed in range(4):
        cv2.imwrite(str(folder / f"{seed}.png"), Street(seed, *SIZE).frame(40)[0])
    return folder


@dataclass(frozen=True)
class InInt8:
    """A graph, and the same with every layer that INT8 is for in INT8; both with their logits as an output."""

    exact: Graph
    int8: Graph
    layers: tuple[Layer, ...]


@pytest.fixture(scope="module")
def in_int8(made: Made, streets: Path, tmp_path_factory: pytest.TempPathFactory) -> InInt8:
    folder = tmp_path_factory.mktemp("int8")
    graph = exposing(Graph(made.graph("model.fp32.onnx"), folder), [LOGITS])
    weights, layers = WeightFile(folder, "int8.weights"), find_layers(graph, LOGITS)
    ranges = calibrate(graph, layers, calibration_frames(streets, 4, SIZE, Resize()), "mse", weights)
    ready = prepare(graph, layers, ranges, weights)
    int8 = quantised(ready.graph, layers, ranges.layers, Int8Weights(ready.graph, weights), weights, outputs=False)
    return InInt8(Graph(graph.model, folder), Graph(int8.model, folder).check(), layers)


def test_the_folded_graph_answers_as_the_torch_reference(made: Made) -> None:
    assert made.result.rung == "fp16"
    errors = {parity.graph: parity.max_error for parity in made.result.report.parity}
    assert errors["fp32"] <= 1e-4
    assert 0 < errors["fp16"] < 2e-2


def test_the_head_is_plain_nodes(made: Made) -> None:
    for name in ("model.onnx", "model.fp32.onnx"):
        model = made.graph(name)
        found = operations(model)
        assert not (FORBIDDEN | {"BatchNormalization", "Dropout", "Sqrt", "Pow"}) & set(found)
        assert found["LayerNormalization"] == 2 * DEPTH + 1 + NORMS[made.kind]
        assert {node.name.split(".")[0] for node in model.graph.node if node.name.startswith("head")} == {"head"}
        kept = made.result.report.kept_fp32.get("model.onnx", {})
        assert not [node for node in kept if node.startswith("head") and re.search(r"(Conv|Gemm|MatMul)(_\d+)?$", node)]


def test_int8_takes_every_layer_but_the_last_of_the_head(in_int8: InInt8, streets: Path) -> None:
    nodes = {node.output[0]: node for node in in_int8.int8.model.graph.node}
    weights = {weight.name for weight in in_int8.exact.model.graph.initializer}
    products = [node for node in in_int8.exact.model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    *others, last = [node.output[0] for node in products if node.input[1] in weights]
    assert [layer.node for layer in in_int8.layers] == others
    assert nodes[last].name.startswith("head.body.classify")
    assert nodes[last].input[1] in weights
    frames = list(calibration_frames(streets, 4, SIZE, Resize()))
    exact, got = (logits(graph, frames) for graph in (in_int8.exact, in_int8.int8))
    assert 0 < ((got - exact) ** 2).mean() / exact.var() < 0.05


def logits(graph: Graph, frames: list[Frame]) -> NDArray[np.float32]:
    session = graph.session()
    return np.concatenate([session.infer(frame[None], [LOGITS])[LOGITS] for frame in frames])


@pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")
def test_tensorrt_builds_it_in_every_precision(made: Made, in_int8: InInt8, tmp_path: Path) -> None:
    without_logits(in_int8.int8).write(tmp_path / "model.int8.onnx")
    exported = [made.result.folder / name for name in ("model.onnx", "model.fp32.onnx")]
    for path in (*exported, tmp_path / "model.int8.onnx"):
        build_engine(path, tmp_path / "rtx.engine", "sm86", "rtx")
        assert (tmp_path / "rtx.engine").stat().st_size > 10_000


def test_a_classifier_goes_from_bundle_to_int8_answers(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle, out = write_bundle(tmp_path / "cls", "cls", kind="attention"), tmp_path / "out"
    asked = ["--task", "cls", "--model", str(bundle), "--precision", "int8", "--engine", "none", "--out", str(out)]
    assert command(export_command, monkeypatch, *asked, "--data", str(streets), "--calib-images", "4") == 0
    assert Manifest.load(out / "manifest.json").precision == "int8"
    found = Report.load(out / "report.json").quantisation
    assert found is not None
    assert any(layer.int8 for layer in found.layers if layer.layer.startswith("head"))
    check_answers(out, streets, monkeypatch)


def test_a_classifier_in_half_precision_answers(made: Made, streets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if made.task != "cls":
        pytest.skip("only a classifier has scores")
    assert made.result.manifest.precision == "fp16"
    check_answers(made.result.folder, streets, monkeypatch)


def check_answers(export_folder: Path, frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an exported classifier on a folder of images: each gets its best classes, best first."""
    lines = export_folder.with_name("top.jsonl")
    assert command(run, monkeypatch, str(export_folder), str(frames), "--output", str(lines), "--device", "cpu") == 0
    answers = [json.loads(line)["top"] for line in lines.read_text().splitlines()]
    assert len(answers) == len(list(frames.iterdir()))
    for top in answers:
        assert set(top) <= set(CLASSES)
        assert list(top.values()) == sorted(top.values(), reverse=True)
        assert 0 < sum(top.values()) <= 1 + 1e-4


@pytest.mark.parametrize(
    ("rung", "gap", "agreement"), [("fp16", 0.05, 1.0), ("fp16", 0.2, 0.5), ("int8", 0.2, 1.0), ("fp32", 0.001, 0.5)]
)
def test_a_frame_with_two_nearly_equal_scores_may_change_its_class(rung: Rung, gap: float, agreement: float) -> None:
    expected = np.array([[10.0, 10 - gap, 0], [0, 5, 0]], np.float32)
    turned = np.array([[10 - gap, 10.0, 0], [0, 5, 0]], np.float32)
    answers = [Answer(values, values.argmax(1)) for values in (turned, expected)]
    assert compare(answers[0], answers[1], "graph", "reference", rung).agreement == agreement
    apart = [Answer(values, np.tile(values.argmax(1)[:, None, None], (1, 2, 2))) for values in (turned, expected)]
    assert compare(apart[0], apart[1], "graph", "reference", rung).agreement == 0.5, "pixels are counted as they are"
