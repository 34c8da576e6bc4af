"""The deployed graph: camera frames to class map or scores, as one static ONNX model.

frames uint8 [N, H, W, 3] BGR ──▶ class_map uint8 [N, H, W], confidence float32 [N, H/s, W/s]   (seg)
                              ──▶ scores float32 [N, C]                                        (cls)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import onnx
import onnxslim
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.helper import make_tensor_value_info
from torch import Tensor, nn

from aselect_calibration.weights import Graph, store
from aselect_edge.bundle.model import upsample
from aselect_export.naming import name_parts
from aselect_runtime.errors import InputError
from aselect_runtime.records import Manifest, Task, TensorSpec
from aselect_runtime.sessions.onnx import METADATA_KEY

OPSET = 20
"""LayerNormalization (17) and Gelu (20) are single nodes; the newest opset that TensorRT 10.3 reads."""

LOGITS = "logits"
"""The tensor before argmax and softmax; an output of the traced graph only."""

_OUTPUTS: dict[Task, tuple[str, ...]] = {"seg": ("class_map", "confidence"), "cls": ("scores",)}


class DeployedGraph(nn.Module):
    """A model whose input is camera frames and whose outputs are answers instead of logits."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Map frames uint8 [N, H, W, 3] to (class_map, confidence, logits) or (scores, logits)."""
        # TensorRT supports uint8 only at the network's inputs and outputs next to a Cast, so cast first.
        pixels = frames.to(torch.float32).permute(0, 3, 1, 2)
        logits: Tensor = self.model(pixels)
        if self.task == "cls":
            return torch.softmax(logits, dim=1), logits
        classes = upsample(logits, (frames.shape[1], frames.shape[2])).argmax(1)
        confidence = torch.softmax(logits, dim=1).amax(1)
        # The same rule for the output: int64 → float → uint8.
        return classes.to(torch.float32).to(torch.uint8), confidence, logits


def trace(model: nn.Module, task: Task, batch: int, size: tuple[int, int], folder: Path) -> Graph:
    """The traced graph of a model, simplified, named and checked: all outputs, then `logits`; its weights in `folder`.

    `batch` frames of `size` (height, width) are fixed into it. Raises InputError if the model cannot be traced.
    """
    frames = torch.zeros(batch, *size, 3, dtype=torch.uint8)
    return trace_module(DeployedGraph(model, task).eval(), frames, "frames", [*_OUTPUTS[task], LOGITS], folder)


def trace_module(module: nn.Module, example: Tensor, source: str, outputs: Sequence[str], folder: Path) -> Graph:
    """The graph of a module with one input, called `source`; otherwise as `trace`."""
    with _quiet_exporter(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[source],
                output_names=outputs,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(
                f"got a model that torch cannot trace to ONNX ({str(error).splitlines()[0]}), expected static shapes "
                "and plain layers; the traceback shows the operation"
            ) from error
    assert program is not None
    name_parts(program.model, module)
    graph = _slim(store(program.model, folder, "traced.weights"))
    _strip(graph.model)
    return graph.check()


def _slim(graph: Graph) -> Graph:
    """The graph simplified by onnxslim, without its external weights, which onnxslim would treat as inputs."""
    model = graph.copy().model
    stored = {w.name: w for w in model.graph.initializer if w.data_location == TensorProto.EXTERNAL}
    small = [w for w in model.graph.initializer if w.name not in stored]
    inputs = list(model.graph.input)
    del model.graph.initializer[:]
    model.graph.initializer.extend(small)
    model.graph.input.extend(make_tensor_value_info(w.name, w.data_type, w.dims) for w in stored.values())
    # MatMul + Add is not fused: onnxslim would put a Reshape on each side of a Gemm.
    simple: ModelProto = onnxslim.slim(model, skip_fusion_patterns=["FusionGemm"])
    used = {name for node in simple.graph.node for name in node.input}
    del simple.graph.input[:]
    simple.graph.input.extend(inputs)
    simple.graph.initializer.extend(weight for name, weight in stored.items() if name in used)
    return Graph(simple, graph.folder)


def without_logits(traced: Graph) -> Graph:
    """The graph to write: a copy of the traced graph without its `logits` output."""
    graph = traced.copy()
    outputs = [output for output in graph.model.graph.output if output.name != LOGITS]
    del graph.model.graph.output[:]
    graph.model.graph.output.extend(outputs)
    return graph


def specs(graph: Graph) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """The input and the outputs of a graph without logits, as the manifest lists them."""
    graph_ = graph.model.graph
    return _spec(graph_.input[0]), tuple(_spec(output) for output in graph_.output)


def describe(graph: Graph, manifest: Manifest) -> None:
    """Store the manifest's main fields in the graph's metadata."""
    del graph.model.metadata_props[:]
    onnx.helper.set_model_props(graph.model, {METADATA_KEY: manifest.to_json()})


def _spec(value: ValueInfoProto) -> TensorSpec:
    kinds: dict[int, Literal["uint8", "float32"]] = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}
    tensor = value.type.tensor_type
    shape = tuple(dimension.dim_value for dimension in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=kinds[tensor.elem_type], shape=shape)


def _strip(model: ModelProto) -> None:
    """Remove the exporter's notes about this machine (source paths, stack traces): a third of the bytes."""
    model.producer_name, model.doc_string = "aselect-edge", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "aselect", ""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's messages: deprecations inside torch, and packages that it does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
