"""Precision as part of the graph: which nodes compute in FP16, written down with Cast nodes and FP16 weights.

No builder flag is needed or obeyed: a strongly typed TensorRT network builds what the graph says, on every version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from aselect_edge.errors import InputError
from aselect_export.graph import LOGITS, exposing
from aselect_runtime.onnx_session import OnnxSession

LIMIT = 16_000.0
"""FP16 ends at 65,504; a tensor that reaches a quarter of it on a few frames will overflow on other ones."""

# Only these ever compute in FP16. All else, LayerNormalization and Softmax above all, stays FP32.
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
_POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Gelu", "Relu", "Sigmoid", "Tanh", "Resize", "ArgMax"})

# These compute nothing: they take the type of what they move, so no Cast is spent on them.
_MOVES = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "DepthToSpace", "Identity"}
)

# Inputs that ONNX fixes to float32 whatever the node computes in.
_FIXED = {"Resize": frozenset({1, 2})}


def measure_ranges(model: ModelProto, batches: Iterable[NDArray[np.uint8]]) -> dict[str, float]:
    """max |x| of every FP32 and FP16 tensor of a graph, weights included, over batches of frames.

    A tensor that holds a NaN or an infinity has the range infinity.
    """
    floats = _float_tensors(model)
    names = [name for node in model.graph.node for name in node.output if name in floats]
    ranges = {weight.name: _largest(numpy_helper.to_array(weight)) for weight in _float_weights(model)}
    ranges.update(dict.fromkeys(names, 0.0))
    session = OnnxSession(exposing(model, names).SerializeToString(), "cpu")
    for frames in batches:
        for name, value in session.infer(frames, names).items():
            ranges[name] = max(ranges[name], _largest(value))
    return ranges


def half_tensors(model: ModelProto) -> frozenset[str]:
    """Names of a graph's FP16 tensors, weights included."""
    return frozenset(name for name, kind in _float_tensors(model).items() if kind == TensorProto.FLOAT16)


def fp16_nodes(model: ModelProto, ranges: Mapping[str, float]) -> frozenset[str]:
    """The nodes of an FP32 graph (by first output) that the fp16 rung computes in FP16.

    All products and pointwise nodes whose inputs, weights and outputs stay below LIMIT.
    """
    return frozenset(
        node.output[0] for node in model.graph.node if node.op_type in _PRODUCTS | _POINTWISE and _fits(node, ranges)
    )


def mixed_nodes(model: ModelProto, ranges: Mapping[str, float]) -> frozenset[str]:
    """The nodes of an FP32 graph (by first output) that the mixed rung computes in FP16.

    Only products with weights: attention's inner products, residual sums, activations and the logits stay FP32.
    """
    weights = {weight.name for weight in model.graph.initializer}
    return frozenset(
        node.output[0]
        for node in model.graph.node
        if node.op_type in _PRODUCTS
        and weights.intersection(node.input)
        and node.output[0] != LOGITS
        and _fits(node, ranges)
    )


def convert(model: ModelProto, half: frozenset[str]) -> ModelProto:
    """A copy of an FP32 graph in which the nodes named by `half` (first outputs) compute in FP16.

    Ensures: graph inputs and outputs keep their types; a tensor is cast at most once to each type; weights are
    stored in the type that they are used in.
    """
    result = ModelProto()
    result.CopyFrom(model)
    conversion = _Conversion(result.graph, _float_tensors(model), half)
    nodes = conversion.run()
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    _drop_unused_weights(result.graph)
    onnx.checker.check_model(result, full_check=True)
    return result


class _Conversion:
    """One pass over the nodes in order, keeping the type that each float tensor has by now."""

    def __init__(self, graph: GraphProto, floats: Mapping[str, int], half: frozenset[str]) -> None:
        self.graph = graph
        self.half = half
        self.kinds = dict(floats)
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.outputs = {output.name for output in graph.output if output.name in floats}
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> list[NodeProto]:
        for node in list(self.graph.node):
            kind = self._kind(node)
            fixed = _FIXED.get(node.op_type, frozenset())
            for index, name in enumerate(node.input):
                if index not in fixed and self.kinds.get(name, kind) != kind:
                    node.input[index] = self._cast(name, kind)
            self.nodes.append(node)
            for index, name in enumerate(node.output):
                if name in self.kinds:
                    self.kinds[name] = kind
                    if name in self.outputs and kind == TensorProto.FLOAT16:
                        self._restore_output(node, index)
        return self.nodes

    def _kind(self, node: NodeProto) -> int:
        """The float type that a node computes in."""
        if node.op_type in _MOVES:
            return self.kinds.get(node.input[0], TensorProto.FLOAT)
        return TensorProto.FLOAT16 if node.output[0] in self.half else TensorProto.FLOAT

    def _cast(self, name: str, kind: int) -> str:
        if (name, kind) not in self.casts:
            suffix = "fp16" if kind == TensorProto.FLOAT16 else "fp32"
            target = f"{name}_{suffix}"
            if name in self.weights:
                values = numpy_helper.to_array(self.weights[name]).astype(helper.tensor_dtype_to_np_dtype(kind))
                self.graph.initializer.append(numpy_helper.from_array(values, target))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [target], name=f"cast_{target}", to=kind))
            self.casts[name, kind] = target
            self.kinds[target] = kind
        return self.casts[name, kind]

    def _restore_output(self, node: NodeProto, index: int) -> None:
        """Give a graph output its FP32 back; consumers within the graph keep reading the FP16 tensor."""
        name = node.output[index]
        inner = f"{name}_fp16"
        node.output[index] = inner
        self.nodes.append(helper.make_node("Cast", [inner], [name], name=f"cast_{name}", to=TensorProto.FLOAT))
        self.kinds[inner], self.kinds[name] = TensorProto.FLOAT16, TensorProto.FLOAT
        self.casts[name, TensorProto.FLOAT16] = inner


def _float_tensors(model: ModelProto) -> dict[str, int]:
    """Element type of every FP32 and FP16 tensor, weights included."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    unknown = [name for node in graph.node for name in node.output if name and not kinds.get(name)]
    if unknown:
        raise InputError(f"tensor {unknown[0]}: got no type, expected one after shape inference; use static shapes")
    kinds.update((weight.name, weight.data_type) for weight in graph.initializer)
    return {name: kind for name, kind in kinds.items() if kind in (TensorProto.FLOAT, TensorProto.FLOAT16)}


def _float_weights(model: ModelProto) -> list[TensorProto]:
    return [w for w in model.graph.initializer if w.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]


def _fits(node: NodeProto, ranges: Mapping[str, float]) -> bool:
    return all(ranges.get(name, 0.0) < LIMIT for name in (*node.input, *node.output))


def _largest(values: NDArray[np.generic]) -> float:
    if not values.size:
        return 0.0
    # Two reductions rather than abs(): no copy of the tensor. A NaN is the result of both.
    largest = max(float(values.max()), -float(values.min()))
    return largest if np.isfinite(largest) else float("inf")


def _drop_unused_weights(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
