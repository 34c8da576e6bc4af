"""The exported graph: plain operations, names that say block and component, nothing beyond the taps."""

from __future__ import annotations

import re
from collections import Counter

import onnx
from onnx import ModelProto

from aselect_export.exporting import ExportResult
from tests.bundles import DEPTH

FORBIDDEN = frozenset({"Shape", "Gather", "If", "Loop", "Constant", "ConstantOfShape", "Erf", "Sin", "Expand"})


def operations(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_the_graph_is_plain(seg_export: ExportResult) -> None:
    model = onnx.load(seg_export.folder / "model.fp32.onnx")
    onnx.checker.check_model(model, full_check=True)
    found = operations(model)
    # Two norms per whole block, one in the block that is cut at its query, one in the head.
    assert found["LayerNormalization"] == 2 * DEPTH + 2
    assert found["Gelu"] == DEPTH
    assert found["Softmax"] == DEPTH + 1
    assert not FORBIDDEN & set(found)
    content = (seg_export.folder / "model.onnx").read_bytes()
    assert b".py" not in content, "the exporter's stack traces name this machine's files"


def test_names_say_block_and_component(seg_export: ExportResult) -> None:
    graph = onnx.load(seg_export.folder / "model.fp32.onnx").graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    attention = ("attention.qkv.MatMul", "attention.scores.MatMul", "attention.softmax.Softmax", "attention.mix.MatMul")
    layers = (*attention, "attention.out.Add", "residual.Add", "mlp.in.MatMul", "mlp.gelu.Gelu", "mlp.out.MatMul")
    assert {f"block{index}.{layer}" for index in range(DEPTH) for layer in layers} <= set(names)
    assert "block2.attention.query.MatMul" in names
    assert not [name for name in names if name.startswith("block2.mlp")]
    known = re.compile(r"(frames|embed|backbone|block\d+|head|answer|shared)\.")
    weights = [weight.name for weight in graph.initializer]
    outer = {"logits", *(output.name for output in graph.output)}
    tensors = [name for node in graph.node for name in node.output if name not in outer]
    assert [name for name in (*names, *weights, *tensors) if not known.match(name)] == []
    assert {"block0.attention.qkv.weight", "block0.attention.qkv.bias", "block0.mlp.in.weight"} <= set(weights)
    assert not [name for name in (*names, *weights, *tensors) if "val_" in name or "_to_copy" in name]
