"""Precision as part of the graph: which nodes compute in FP16, expressed by Cast nodes and FP16 weights.

No builder flag is needed: a strongly typed TensorRT network builds the types in the graph, in every version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from aselect_calibration.weights import Graph, WeightFile
from aselect_export.activations import Span, float_tensors
from aselect_export.graph import LOGITS

LIMIT = 16_000.0
"""FP16's maximum is 65,504; a tensor that reaches a quarter of it on a few frames may overflow on others."""

# Only these compute in FP16. All others, LayerNormalization and Softmax above all, stay FP32.
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
_POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Gelu", "Relu", "Sigmoid", "Tanh", "Resize", "ArgMax"})

_ADDS_UP = {"LayerNormalization": ": it sums squares", "Softmax": ": it sums exponentials"}

# These compute nothing: they have the type of their input, so they need no Cast.
_MOVES = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "DepthToSpace", "Identity"}
)

# Inputs that ONNX defines as float32 for every compute type.
_FIXED = {"Resize": frozenset({1, 2})}


@dataclass(frozen=True)
class CastPlan:
    """Which nodes of an FP32 graph compute in FP16, and why the others do not."""

    half: frozenset[str]
    """Nodes, by first output."""
    kept: Mapping[str, str]
    """Name of every node that stays FP32 -> the reason."""


def fp16(model: ModelProto, spans: Mapping[str, Span]) -> CastPlan:
    """All products and pointwise nodes whose inputs, weights and outputs stay below LIMIT."""
    return _plan(model, lambda node: _unsuited(node) or _beyond(node, spans))


def fp16_but_coarse(model: ModelProto, spans: Mapping[str, Span], coarseness: float) -> CastPlan:
    """As `fp16`, but without the nodes next to a tensor whose relative rounding error is `coarseness` or more."""
    return _plan(model, lambda node: _unsuited(node) or _beyond(node, spans) or _coarse(node, spans, coarseness))


def products(model: ModelProto, spans: Mapping[str, Span]) -> CastPlan:
    """Only products with weights: attention's inner products, residual sums, activations and the logits stay FP32."""
    weights = {weight.name for weight in model.graph.initializer}

    def reason(node: NodeProto) -> str | None:
        if node.op_type not in _PRODUCTS or not weights.intersection(node.input) or node.output[0] == LOGITS:
            return "in this rung only products with weights are FP16, except the logits"
        return _beyond(node, spans)

    return _plan(model, reason)


def half_tensors(model: ModelProto) -> frozenset[str]:
    """Names of a graph's FP16 tensors, weights included."""
    return frozenset(name for name, kind in float_tensors(model).items() if kind == TensorProto.FLOAT16)


def convert(graph: Graph, half: frozenset[str], name: str) -> Graph:
    """A copy of an FP32 graph in which the nodes named by `half` (first outputs) compute in FP16.

    Changed weights are written to the file `name` next to the others. Ensures: graph inputs and outputs keep their
    types; a tensor is cast at most once to each type; weights are stored in the type that they are used in.
    """
    result = graph.copy()
    conversion = _Conversion(result, float_tensors(graph.model), half, WeightFile(graph.folder, name))
    nodes = conversion.run()
    inner = result.model.graph
    del inner.node[:], inner.value_info[:]
    inner.node.extend(nodes)
    _drop_unused_weights(inner)
    return result.check()


class _Conversion:
    """One pass over the nodes in order, tracking the current type of each float tensor."""

    def __init__(self, source: Graph, floats: Mapping[str, int], half: frozenset[str], file: WeightFile) -> None:
        self.source, self.file = source, file
        self.graph = source.model.graph
        self.half = half
        self.kinds = dict(floats)
        self.weights = {weight.name: weight for weight in self.graph.initializer}
        self.outputs = {output.name for output in self.graph.output if output.name in floats}
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
                values = self.source.array(self.weights[name]).astype(helper.tensor_dtype_to_np_dtype(kind))
                self.graph.initializer.append(self.file.put(target, values))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [target], name=f"cast_{target}", to=kind))
            self.casts[name, kind] = target
            self.kinds[target] = kind
        return self.casts[name, kind]

    def _restore_output(self, node: NodeProto, index: int) -> None:
        """Cast a graph output back to FP32; consumers within the graph keep reading the FP16 tensor."""
        name = node.output[index]
        inner = f"{name}_fp16"
        node.output[index] = inner
        self.nodes.append(helper.make_node("Cast", [inner], [name], name=f"cast_{name}", to=TensorProto.FLOAT))
        self.kinds[inner], self.kinds[name] = TensorProto.FLOAT16, TensorProto.FLOAT
        self.casts[name, TensorProto.FLOAT16] = inner


def _plan(model: ModelProto, reason: Callable[[NodeProto], str | None]) -> CastPlan:
    floats = float_tensors(model)
    half, kept = set(), {}
    norms = _under_roots(model)
    for node in model.graph.node:
        computes = node.op_type not in _MOVES and node.op_type != "Cast"
        if not computes or not any(name in floats for name in (*node.input, *node.output)):
            continue
        why = "it sums squares" if node.output[0] in norms else reason(node)
        if why is None:
            half.add(node.output[0])
        else:
            kept[node.name or node.output[0]] = why
    return CastPlan(frozenset(half), kept)


def _under_roots(model: ModelProto) -> frozenset[str]:
    """The tensors from the squares to the root of every norm made of separate nodes: sqrt(mean(x²) + eps).

    In FP16 squares overflow from 256 on, on any frames, and eps cannot be represented.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    found: set[str] = set()
    for root in model.graph.node:
        ahead = list(root.input) if root.op_type == "Sqrt" else []
        while ahead:
            name = ahead.pop()
            node = makers.get(name)
            if node is None or node.op_type not in ("Add", "ReduceMean", "Mul", "Pow"):
                continue
            found.add(name)
            if node.op_type in ("Add", "ReduceMean"):
                ahead += node.input
    return frozenset(found)


def _unsuited(node: NodeProto) -> str | None:
    if node.op_type in _PRODUCTS | _POINTWISE:
        return None
    return f"{node.op_type} is always FP32{_ADDS_UP.get(node.op_type, '')}"


def _beyond(node: NodeProto, spans: Mapping[str, Span]) -> str | None:
    reached = {name: spans[name].largest for name in (*node.input, *node.output) if name in spans}
    worst = max(reached, key=reached.__getitem__, default=None)
    if worst is None or reached[worst] < LIMIT:
        return None
    return f"{worst} reaches {reached[worst]:.0f} on the verification frames, the limit is {LIMIT:.0f}"


def _coarse(node: NodeProto, spans: Mapping[str, Span], limit: float) -> str | None:
    shares = {name: spans[name].coarseness for name in (*node.input, *node.output) if name in spans}
    worst = max(shares, key=shares.__getitem__, default=None)
    if worst is None or shares[worst] < limit:
        return None
    return f"rounding {worst} to FP16 loses {shares[worst]:.2%} of its variation, the limit is {limit:.2%}"


def _drop_unused_weights(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
