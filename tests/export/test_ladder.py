"""The graphs of an FP16 export: those that pass are written, those that fail are reported."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from aselect_export.commands.export import export as export_command
from aselect_export.exporting import ExportResult, export, open_bundle
from aselect_export.precision import half_tensors
from aselect_runtime import open_model
from aselect_runtime.errors import GateError
from aselect_runtime.records import Manifest, Report
from tests.bundles import SIZE, command, grow_mlp, lift_logits, lift_tokens, write_bundle


def test_every_graph_passed_against_every_reference(seg_export: ExportResult) -> None:
    report = Report.load(seg_export.folder / "report.json")
    assert seg_export.rung == "fp16"
    assert [(p.graph, p.reference.split(",")[0]) for p in report.parity] == [
        ("fp16", "torch float32"),
        ("fp16", "torch float16"),
        ("mixed", "torch float32"),
        ("mixed", "torch float16"),
        ("fp32", "torch float32"),
    ]
    assert all(parity.passed for parity in report.parity)
    assert report.parity[-1].max_error <= 1e-4
    assert report.size["deployed_float32_bytes"] < report.size["backbone_float32_bytes"]


def test_precision_is_in_the_graph(seg_export: ExportResult) -> None:
    model = onnx.load(seg_export.folder / "model.onnx")
    half = half_tensors(model)
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Conv"):
            assert half.issuperset([*node.input, *node.output]), node.name
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert not half.intersection([*node.input, *node.output]), node.name
    large = [weight for weight in weights.values() if np.prod(weight.dims) > 64 and weight.data_type != 7]
    assert large
    assert all(weight.data_type == TensorProto.FLOAT16 for weight in large)


def test_values_beyond_fp16_stay_fp32(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", change=grow_mlp)
    result = export(open_bundle("seg", folder), "fp16", tmp_path / "out", engine="none", allow_mixed=True)
    assert result.rung == "mixed", "torch's plain float16 overflows"
    text = (result.folder / "report.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    weights = onnx.load(result.folder / "model.onnx").graph.initializer
    kinds = Counter(weight.data_type for weight in weights if len(weight.dims) > 1)
    assert kinds[TensorProto.FLOAT] >= 1
    assert kinds[TensorProto.FLOAT16] > kinds[TensorProto.FLOAT]
    frames = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    _, session = open_model(result.folder, "cpu")
    assert np.isfinite(session.infer(frames)["confidence"]).all()


@pytest.mark.parametrize("ladder", [[], ["--no-ladder"]])
def test_a_failed_fp16_graph_is_not_replaced_silently(
    ladder: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "bundle", change=lift_tokens)
    arguments = ["--model", str(folder), "--out", str(tmp_path / "out"), "--engine", "none", *ladder]
    assert command(export_command, monkeypatch, *arguments) == GateError.exit_code == 3
    told = r"fp16: .*\(failed\) \| mixed: .*\(passed\) \| fp32: .*\(passed\).*use the precision fp32, or "
    told += r"allow mixed, which .* \(--precision, --allow-mixed\)"
    assert re.search(told, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == [folder]


def test_the_mixed_graph_is_used_where_allowed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_bundle(tmp_path / "bundle", change=lift_tokens), tmp_path / "out"
    arguments = ["--model", str(folder), "--out", str(out), "--engine", "none", "--allow-mixed", "--json"]
    assert command(export_command, monkeypatch, *arguments) == 0
    said = capsys.readouterr()
    assert "warning: fp16 failed its parity check" in said.err
    assert json.loads(said.out)["rung"] == "mixed"
    assert Manifest.load(out / "manifest.json").rungs == ("model.fp32.onnx",)
    report = Report.load(out / "report.json")
    assert any("model.onnx is the mixed graph" in note for note in report.notes)
    assert not any(parity.passed for parity in report.parity if parity.graph == "fp16")
    assert sum(parity.passed for parity in report.parity if parity.graph == "mixed") == 2
    kept = report.kept_fp32["model.onnx"]
    assert re.match(r"rounding embed\.Add to FP16 loses [\d.]+% of its variation", kept["embed.Add"])
    assert kept["block0.attention.softmax.Softmax"].startswith("Softmax is always FP32")
    assert "block0.mlp.in.MatMul" not in kept, "more than what rounding harms went back to FP32"
    # What went back is named, and is all that did.
    graph = onnx.load(out / "model.onnx")
    tensors = half_tensors(graph)
    for node in graph.graph.node:
        if node.op_type in ("MatMul", "Conv", "Add", "Gelu", "Relu"):
            assert (node.name in kept) == (not tensors.intersection(node.output)), node.name


def test_allow_mixed_changes_nothing_where_fp16_passes(seg_bundle: Path, tmp_path: Path) -> None:
    loaded = open_bundle("seg", seg_bundle)
    result = export(loaded, "fp16", tmp_path / "out", engine="none", ladder=False, allow_mixed=True)
    assert result.rung == "fp16"
    assert result.manifest.rungs == ()


def test_a_missed_gate_exits_3_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "bundle", change=lift_logits)
    out = tmp_path / "out"
    code = command(export_command, monkeypatch, "--model", str(folder), "--out", str(out), "--engine", "none")
    said = capsys.readouterr()
    assert code == GateError.exit_code == 3
    assert re.search(
        r"error: fp16: .*\(failed\) \| mixed: .*\(failed\) .*use the precision fp32 \(--precision\)", said.err
    )
    assert "--allow-mixed" not in said.err, "the mixed graph failed too"
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == [folder]
