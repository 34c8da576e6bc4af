"""Statistics of a graph's tensors on real frames, computed in the graph itself.

Only scalars leave the session, so measuring hundreds of tensors needs no more memory than computing them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from aselect_calibration.weights import Graph
from aselect_runtime.errors import InputError
from aselect_runtime.processor import compute_threads

_LARGEST, _ENERGY, _LOST, _VARIED = "largest", "energy", "lost", "varied"


@dataclass(frozen=True)
class Span:
    """The values of one tensor over all frames."""

    largest: float
    """max |x|; infinity if a value is infinite or NaN."""
    coarseness: float = 0.0
    """Error of rounding to FP16, as a share of the variation along the last axis; 0 if not measured.

    A common offset, which LayerNorm and softmax remove, does not count as variation.
    """


def record_spans(graph: Graph, batches: Iterable[NDArray[np.uint8]]) -> dict[str, Span]:
    """The span of every FP32 and FP16 tensor of a graph, weights included, over batches of frames."""
    kinds = float_tensors(graph.model)
    with Graph(measuring(graph.model, kinds), graph.folder).saved() as path:
        session = _session(path)
    names = [output.name for output in session.get_outputs() if "/" in output.name]
    largest: dict[str, float] = {}
    sums: dict[str, float] = {}
    for frames in batches:
        for output, value in zip(names, session.run(names, {"frames": frames}), strict=True):
            what, _, name = output.partition("/")
            if what == _LARGEST:
                largest[name] = max(largest.get(name, 0.0), float(value))
            else:
                sums[output] = sums.get(output, 0.0) + float(value)
    spans = {name: _span(name, value, sums) for name, value in largest.items()}
    for weight in graph.model.graph.initializer:
        if weight.name in kinds:
            spans[weight.name] = Span(_largest(graph.array(weight)))
    return spans


def measuring(model: ModelProto, kinds: Mapping[str, int]) -> ModelProto:
    """A copy of a graph with additional scalar outputs: `largest/x`, `energy/x` for every float tensor x of a node.

    For FP32 tensors also `lost/x` (squared FP16 rounding error) and `varied/x` (squared variation).
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = {weight.name for weight in model.graph.initializer}
    del copy.graph.node[:]
    for node in model.graph.node:
        copy.graph.node.append(node)
        for name in node.output:
            if name not in kinds or name in weights:
                continue
            copy.graph.node.extend(_statistics(name, kinds[name]))
            whats = (_LARGEST, _ENERGY, *((_LOST, _VARIED) if kinds[name] == TensorProto.FLOAT else ()))
            scalars = [helper.make_tensor_value_info(f"{what}/{name}", TensorProto.FLOAT, []) for what in whats]
            copy.graph.output.extend(scalars)
    copy.graph.initializer.append(helper.make_tensor("last/axis", TensorProto.INT64, [1], [-1]))
    return copy


def _session(path: Path) -> onnxruntime.InferenceSession:
    """A session that computes the statistics of a tensor as soon as it is available, and then frees it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = compute_threads()
    # In the default order all statistics come last, so that all tensors stay in memory: gigabytes.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as they are written, also in FP8
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def float_tensors(model: ModelProto) -> dict[str, int]:
    """Element type of every FP32 and FP16 tensor, weights included."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    unknown = [name for node in graph.node for name in node.output if name and not kinds.get(name)]
    if unknown:
        raise InputError(f"tensor {unknown[0]}: got no type, expected one after shape inference; use static shapes")
    kinds.update((weight.name, weight.data_type) for weight in graph.initializer)
    return {name: kind for name, kind in kinds.items() if kind in (TensorProto.FLOAT, TensorProto.FLOAT16)}


def _statistics(name: str, kind: int) -> list[NodeProto]:
    """The nodes that reduce a tensor to its statistics."""
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = []
    wide = name
    if kind == TensorProto.FLOAT16:
        wide = f"wide/{name}"
        steps.append(("Cast", [name], wide, {"to": TensorProto.FLOAT}))
    steps += [
        ("Abs", [wide], f"abs/{name}", {}),
        ("ReduceMax", [f"abs/{name}"], f"{_LARGEST}/{name}", {"keepdims": 0}),
        ("ReduceSumSquare", [wide], f"{_ENERGY}/{name}", {"keepdims": 0}),
    ]
    if kind == TensorProto.FLOAT:
        steps += [
            ("Cast", [name], f"half/{name}", {"to": TensorProto.FLOAT16}),
            ("Cast", [f"half/{name}"], f"back/{name}", {"to": TensorProto.FLOAT}),
            ("Sub", [name, f"back/{name}"], f"rest/{name}", {}),
            ("ReduceSumSquare", [f"rest/{name}"], f"{_LOST}/{name}", {"keepdims": 0}),
            ("ReduceMean", [name, "last/axis"], f"mean/{name}", {"keepdims": 1}),
            ("Sub", [name, f"mean/{name}"], f"centred/{name}", {}),
            ("ReduceSumSquare", [f"centred/{name}"], f"{_VARIED}/{name}", {"keepdims": 0}),
        ]
    return [
        helper.make_node(operation, inputs, [output], **attributes) for operation, inputs, output, attributes in steps
    ]


def _span(name: str, largest: float, sums: Mapping[str, float]) -> Span:
    # A maximum may ignore a NaN, a sum of squares does not.
    if not math.isfinite(sums[f"{_ENERGY}/{name}"]):
        return Span(math.inf, math.inf)
    lost, varied = sums.get(f"{_LOST}/{name}", 0.0), sums.get(f"{_VARIED}/{name}", 0.0)
    if not math.isfinite(lost) or (lost and not varied):
        return Span(largest, math.inf)
    return Span(largest, math.sqrt(lost / varied) if lost else 0.0)


def _largest(values: NDArray[np.generic]) -> float:
    if not values.size:
        return 0.0
    # Two reductions instead of abs() avoid a copy of the tensor. Both return NaN if there is one.
    largest = max(float(values.max()), -float(values.min()))
    return largest if np.isfinite(largest) else math.inf
