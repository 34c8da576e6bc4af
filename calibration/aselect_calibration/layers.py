"""The layers of a graph that can be quantised to INT8: products of an activation with a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx import NodeProto

from aselect_calibration.graphs import consumers, producers
from aselect_calibration.weights import Graph
from aselect_runtime.errors import InputError

_BEHIND = frozenset({"Add", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Relu", "Identity"})
"""Operations allowed between the last product and the logits."""


@dataclass(frozen=True)
class Layer:
    """One product: a linear layer or a convolution."""

    name: str
    """The component in the graph's names, such as `block3.mlp.in`."""
    kind: Literal["MatMul", "Gemm", "Conv"]
    node: str
    """The first output of its node, which no pass renames."""
    input: str
    weight: str
    axis: int
    """The axis of the weight that indexes its outputs."""
    result: str | None
    """The ReLU output of a convolution, if a ReLU follows and no other node reads the convolution's output."""
    norm: str | None
    """The output of the LayerNormalization or RMSNorm that this layer reads, if only products with weights read it."""


def find_layers(graph: Graph, logits: str) -> tuple[Layer, ...]:
    """The products with weights, in the order of the graph, without the last one before `logits`.

    Attention's inner products have no weight and are not included. Raises InputError for a graph without such a
    product.
    """
    weights = {weight.name: len(weight.dims) for weight in graph.model.graph.initializer}
    readers, makers = consumers(graph), producers(graph)
    last = _last_product(logits, makers, weights)
    nodes = [node for node in graph.model.graph.node if _is_product(node, weights) and node.output[0] != last]
    if not nodes:
        raise InputError(
            "got a graph without a linear layer or convolution, expected at least one to quantise; use fp16"
        )
    products = {node.output[0] for node in nodes}
    return tuple(
        Layer(
            name=node.name.removesuffix(f".{node.op_type}"),
            kind=node.op_type,
            node=node.output[0],
            input=node.input[0],
            weight=node.input[1],
            axis=_output_axis(node),
            result=_result(node, readers) if node.op_type == "Conv" else None,
            norm=_norm(node, makers, readers, products, weights),
        )
        for node in nodes
    )


def _is_product(node: NodeProto, weights: dict[str, int]) -> bool:
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in weights or node.input[0] in weights:
        return False
    return node.op_type == "Conv" or weights[node.input[1]] == 2


def _output_axis(node: NodeProto) -> int:
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _last_product(logits: str, makers: dict[str, NodeProto], weights: dict[str, int]) -> str | None:
    """The output of the last product, followed only by bias, ReLU and layout operations before the logits."""
    name = logits
    while name in makers:
        node = makers[name]
        if _is_product(node, weights):
            return str(node.output[0])
        inner = [source for source in node.input if source and source not in weights]
        if node.op_type not in _BEHIND or len(inner) != 1:
            return None
        name = inner[0]
    return None


def _result(node: NodeProto, readers: dict[str, list[NodeProto]]) -> str:
    reading = readers.get(node.output[0], [])
    follows = len(reading) == 1 and reading[0].op_type == "Relu"
    return str(reading[0].output[0] if follows else node.output[0])


def _norm(
    node: NodeProto,
    makers: dict[str, NodeProto],
    readers: dict[str, list[NodeProto]],
    products: set[str],
    weights: dict[str, int],
) -> str | None:
    """Only for MatMul: a norm before a convolution would have its channels on another axis."""
    source = makers.get(node.input[0])
    if source is None or node.op_type != "MatMul":
        return None
    if source.op_type != "LayerNormalization" and not _is_rms_norm(source, makers, weights):
        return None
    alone = all(reader.op_type == "MatMul" and reader.output[0] in products for reader in readers[source.output[0]])
    return str(source.output[0]) if alone else None


def _is_rms_norm(node: NodeProto, makers: dict[str, NodeProto], weights: dict[str, int]) -> bool:
    """Whether a node is the last of an RMSNorm made of separate nodes: x / sqrt(mean(x²) + eps) · weight."""
    if node.op_type != "Mul" or [weights.get(name) for name in node.input].count(1) != 1:
        return False
    normed = makers.get(next(name for name in node.input if name not in weights))
    root = makers.get(normed.input[1]) if normed is not None and normed.op_type == "Div" else None
    return root is not None and root.op_type == "Sqrt"
