"""The deployed graph: camera frames in, class map or scores out, as one static ONNX model.

frames uint8 [N, H, W, 3] BGR ──▶ class_map uint8 [N, H, W], confidence float32 [N, H/s, W/s]   (seg)
                              ──▶ scores float32 [N, C]                                        (cls)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import onnx
import onnxslim
import torch
from onnx import ModelProto, ValueInfoProto
from torch import Tensor, nn

from aselect_edge.errors import InputError
from aselect_edge.perception import upsample
from aselect_edge.records import Manifest, Task, TensorSpec
from aselect_runtime.onnx_session import METADATA_KEY

OPSET = 20
"""LayerNormalization (17) and Gelu (20) are single nodes; the newest that TensorRT 10.3 reads."""

LOGITS = "logits"
"""The tensor before argmax and softmax; an output of the debug graph only."""

_OUTPUTS: dict[Task, tuple[str, ...]] = {"seg": ("class_map", "confidence"), "cls": ("scores",)}


class DeployedGraph(nn.Module):
    """A model with the camera's frames as its input and the answer, rather than logits, as its outputs."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Map frames uint8 [N, H, W, 3] to (class_map, confidence, logits) or (scores, logits)."""
        # TensorRT takes uint8 only at the network's edge and around a Cast, so cast before anything moves.
        pixels = frames.to(torch.float32).permute(0, 3, 1, 2)
        logits: Tensor = self.model(pixels)
        if self.task == "cls":
            return torch.softmax(logits, dim=1), logits
        classes = upsample(logits, (frames.shape[1], frames.shape[2])).argmax(1)
        confidence = torch.softmax(logits, dim=1).amax(1)
        # The same rule at the other edge: int64 → float → uint8.
        return classes.to(torch.float32).to(torch.uint8), confidence, logits


def trace(model: nn.Module, task: Task, batch: int, size: tuple[int, int]) -> ModelProto:
    """The debug graph of a model, simplified and checked: all outputs, then `logits`.

    `batch` frames of `size` (height, width) are fixed into it. Raises InputError if the model cannot be traced.
    """
    frames = torch.zeros(batch, *size, 3, dtype=torch.uint8)
    graph = DeployedGraph(model, task).eval()
    with _quiet_exporter(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph,
                (frames,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["frames"],
                output_names=[*_OUTPUTS[task], LOGITS],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(
                f"got a model that torch cannot trace to ONNX ({str(error).splitlines()[0]}), expected static shapes "
                "and plain layers; run with --verbose to see the operation"
            ) from error
    assert program is not None
    # MatMul + Add stays as it is: onnxslim would put a Reshape on each side of a Gemm instead.
    simple: ModelProto = onnxslim.slim(program.model_proto, skip_fusion_patterns=["FusionGemm"])
    _strip(simple)
    onnx.checker.check_model(simple, full_check=True)
    return simple


def without_logits(debug: ModelProto) -> ModelProto:
    """The graph that is written: a copy of the debug graph without its `logits` output."""
    model = ModelProto()
    model.CopyFrom(debug)
    outputs = [output for output in model.graph.output if output.name != LOGITS]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


def exposing(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy of a graph in which the named inner tensors are outputs too."""
    copy = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value for value in copy.graph.value_info}
    already = {value.name for value in copy.graph.output}
    copy.graph.output.extend(known[name] for name in names if name not in already)
    return copy


def specs(model: ModelProto) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """The input and the outputs of a graph without logits, as the manifest lists them."""
    return _spec(model.graph.input[0]), tuple(_spec(output) for output in model.graph.output)


def describe(model: ModelProto, manifest: Manifest) -> None:
    """Put the manifest's essentials into the graph's own metadata."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})


def _spec(value: ValueInfoProto) -> TensorSpec:
    kinds: dict[int, str] = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}
    tensor = value.type.tensor_type
    shape = tuple(dimension.dim_value for dimension in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=kinds[tensor.elem_type], shape=shape)  # type: ignore[arg-type]


def _strip(model: ModelProto) -> None:
    """Drop what the exporter notes about this machine (source paths, stack traces): a third of the bytes, no use."""
    model.producer_name, model.doc_string = "aselect-edge", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "aselect", ""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide what the exporter says about itself: deprecations inside torch, and packages that it does not need."""
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
