"""INT4 weights: blocks of 64 inputs of a linear layer share one scale; activations keep their type (W4A16).

The graph holds the 4-bit weights and a DequantizeLinear for each: ONNX Runtime computes both as one MatMulNBits, and
TensorRT dequantises inside its product. That saves memory and memory traffic, not arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from aselect_calibration.layers import Layer, find_layers
from aselect_calibration.weights import Graph, WeightFile
from aselect_runtime.errors import InputError

BLOCK = 64
"""Inputs that share a scale: TensorRT documents 64 and 128; smaller blocks lose less accuracy."""

OPSET = 21
"""The first opset with INT4 and with DequantizeLinear in blocks."""

_LARGEST = 7
_DTYPE = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)

_SHRUNK = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Scales that are tried, as shares of the one at which no value of the block saturates."""


def find_int4_layers(graph: Graph, logits: str) -> tuple[Layer, ...]:
    """The linear layers whose inputs fill whole blocks, without the last one before `logits`.

    Raises InputError for a graph without any.
    """
    inputs = {weight.name: weight.dims[0] for weight in graph.model.graph.initializer if weight.dims}
    products = [layer for layer in find_layers(graph, logits) if layer.kind == "MatMul"]
    found = tuple(layer for layer in products if inputs[layer.weight] % BLOCK == 0)
    if not found:
        raise InputError(
            f"got a model without a linear layer of a multiple of {BLOCK} inputs, expected at least one for int4 "
            "weights; leave the weights as they are",
            parameter="weights",
        )
    return found


def int4_weight(weight: NDArray[np.float32], half: bool) -> tuple[NDArray[np.int8], NDArray[np.floating]]:
    """Levels int8 (K, N) from -8 to 7 and scales (K / BLOCK, N) of a weight (K, N), the least squared error each.

    The scales are FP16 with `half`, else float32.
    """
    dtype = np.float16 if half else np.float32
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    largest = np.abs(blocks).max(axis=1, keepdims=True) / _LARGEST
    least = np.full(largest.shape, np.inf, np.float32)
    best = np.ones_like(largest)
    for share in _SHRUNK:
        scales = np.maximum((largest * share).astype(dtype), np.finfo(dtype).tiny).astype(np.float32)
        error = ((_levels(blocks, scales) * scales - blocks) ** 2).sum(axis=1, keepdims=True)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return _levels(blocks, best).astype(np.int8).reshape(weight.shape), best[:, 0].astype(dtype)


def _levels(blocks: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    levels: NDArray[np.float32] = np.clip(np.rint(blocks / scales), -_LARGEST - 1, _LARGEST)
    return levels


class Int4Weights:
    """The INT4 weights of layers, each computed and stored once for any number of graphs."""

    def __init__(self, graph: Graph, weights: WeightFile) -> None:
        """`graph` holds the FP32 weights."""
        self._graph, self._weights = graph, weights
        self._float = {weight.name: weight for weight in graph.model.graph.initializer}
        self._made: dict[tuple[str, bool], tuple[TensorProto, TensorProto]] = {}

    def of(self, layer: Layer, half: bool) -> tuple[TensorProto, TensorProto]:
        """Levels and scales of a layer as tensors of a graph; the scales are FP16 with `half`."""
        key = (layer.weight, half)
        if key not in self._made:
            name = f"{layer.weight}.int4{'.half' if half else ''}"
            levels, scales = int4_weight(self._graph.array(self._float[layer.weight]), half)
            self._made[key] = self._weights.put(name, levels.astype(_DTYPE)), self._weights.put(f"{name}.scale", scales)
        return self._made[key]


def with_int4(graph: Graph, layers: Sequence[Layer], weights: Int4Weights) -> Graph:
    """A copy of the graph, which may compute partly in FP16, in which the weights of the given layers are INT4."""
    copy = graph.copy()
    inner = copy.model.graph
    stored = {weight.name: weight for weight in inner.initializer}
    chosen = {layer.node: layer for layer in layers}
    nodes: list[NodeProto] = []
    made: set[str] = set()
    for node in inner.node:
        layer = chosen.get(node.output[0])
        if layer is not None:
            levels, scales = weights.of(layer, stored[node.input[1]].data_type == TensorProto.FLOAT16)
            node.input[1] = f"{levels.name}.dequantised"
            if levels.name not in made:
                made.add(levels.name)
                stored |= {levels.name: levels, scales.name: scales}
                nodes.append(_dequantised(levels.name, scales.name, node.input[1]))
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    copied = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del inner.node[:], inner.initializer[:], inner.value_info[:]
    inner.node.extend(copied)
    inner.initializer.extend(weight for name, weight in stored.items() if name in used)
    # Of the operations in these graphs, opset 21 only admits more types.
    copy.model.opset_import[0].version = max(OPSET, copy.model.opset_import[0].version)
    return copy


def _dequantised(levels: str, scales: str, output: str) -> NodeProto:
    return helper.make_node(
        "DequantizeLinear", [levels, scales], [output], name=f"{output}.DequantizeLinear", axis=0, block_size=BLOCK
    )
