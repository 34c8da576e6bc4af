"""Queries on a graph: its digest, its tensors' shapes, the producer and consumers of each tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto

from aselect_calibration.weights import Graph


def digest(graph: Graph) -> str:
    """SHA-256 of a graph's nodes and weights; where the weights are stored does not matter."""
    result = hashlib.sha256()
    for node in graph.model.graph.node:
        result.update(node.SerializeToString(deterministic=True))
    for weight in sorted(graph.model.graph.initializer, key=lambda one: one.name):
        values = np.ascontiguousarray(graph.array(weight))
        result.update(f"\0{weight.name}\0{values.dtype}\0{values.shape}\0".encode())
        result.update(values.data)
    return result.hexdigest()


def exposing(graph: Graph, tensors: Iterable[str]) -> Graph:
    """A copy of a graph in which the named inner tensors are outputs too."""
    copy = graph.copy()
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(copy.model).graph.value_info}
    already = {value.name for value in copy.model.graph.output}
    copy.model.graph.output.extend(known[name] for name in tensors if name not in already)
    return copy


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The static shape of every tensor that is not a weight."""
    inferred = onnx.shape_inference.infer_shapes(graph.model).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    return {value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim) for value in values}


def producers(graph: Graph) -> dict[str, NodeProto]:
    """Tensor name -> the node that computes it."""
    return {name: node for node in graph.model.graph.node for name in node.output}


def consumers(graph: Graph) -> dict[str, list[NodeProto]]:
    """Tensor name -> the nodes that read it, in the order of the graph."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.model.graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found
