"""Smoothing: moving channel outliers from the output of a LayerNormalization or RMSNorm into the weights that read it.

SmoothQuant (Xiao et al., arXiv 2211.10438): X·W = (X / s)·(s·W) with s_j = max|X_j|^a / max|W_j|^(1-a). The division is
folded into the norm's own scale and bias, so it adds no computation at run time.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from aselect_calibration.graphs import producers
from aselect_calibration.histogram import Histogram
from aselect_calibration.layers import Layer
from aselect_calibration.observing import ChannelSample
from aselect_calibration.rounding import round_activation, round_weight
from aselect_calibration.thresholds import Method, threshold
from aselect_calibration.weights import Graph, WeightFile

STRENGTHS = tuple(float(a) for a in np.linspace(0, 1, 11))
_SMALL = 1e-5
"""Smallest share of the largest magnitude that a channel counts as, so that channels near zero do not affect s."""


@dataclass(frozen=True)
class Smoothing:
    """The factors s (D,) of one norm, and the strength a that they were computed with."""

    strength: float
    factors: NDArray[np.float32]


def by_norm(layers: Sequence[Layer]) -> dict[str, tuple[Layer, ...]]:
    """The layers that read each norm's output."""
    norms = dict.fromkeys(layer.norm for layer in layers if layer.norm is not None)
    return {norm: tuple(layer for layer in layers if layer.norm == norm) for norm in norms}


def search(
    graph: Graph, layers: Sequence[Layer], samples: Mapping[str, ChannelSample], method: Method
) -> dict[str, Smoothing]:
    """For each norm the strength with the least squared error of its layers' outputs; others are left out."""
    found = {}
    for norm, readers in by_norm(layers).items():
        weight = np.concatenate([_weight(graph, layer) for layer in readers], axis=1)
        best = _best(samples[norm], weight, method)
        if best is not None:
            found[norm] = best
    return found


def smoothed(graph: Graph, layers: Sequence[Layer], smoothing: Mapping[str, Smoothing], weights: WeightFile) -> Graph:
    """A copy of the graph with the same function and smoother activations. New weights are appended to `weights`."""
    copy = graph.copy()
    stored = {weight.name: weight for weight in copy.model.graph.initializer}
    makers, added = producers(copy), {}
    for norm, readers in by_norm(layers).items():
        if norm not in smoothing:
            continue
        factors = smoothing[norm].factors
        node = makers[norm]
        for index, role in _own_weights(node, stored):
            if node.input[index]:
                name = f"{norm}.smooth.{role}"
                added[name] = weights.put(name, graph.array(stored[node.input[index]]) / factors)
                node.input[index] = name
        for layer in readers:
            # Layers behind different norms may share a weight, but not the factors.
            name = f"{layer.weight}.smooth.{norm}"
            added[name] = weights.put(name, _weight(graph, layer) * factors[:, None])
            makers[layer.node].input[1] = name
    used = {name for node in copy.model.graph.node for name in node.input}
    kept = [weight for weight in copy.model.graph.initializer if weight.name in used]
    del copy.model.graph.initializer[:]
    copy.model.graph.initializer.extend([*kept, *added.values()])
    return copy


def _own_weights(node: NodeProto, stored: Container[str]) -> list[tuple[int, str]]:
    """Index in a norm's inputs, and role, of its weights; an RMSNorm ends in a product with its scale."""
    if node.op_type == "Mul":
        return [(index, "scale") for index, name in enumerate(node.input) if name in stored]
    return [(index, role) for index, role in ((1, "scale"), (2, "bias")) if index < len(node.input)]


def factors(activation: NDArray[np.float32], weight: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """s (D,) from max |x| per channel (D,) and the weight (D, M); its geometric mean is 1."""
    x = np.maximum(activation, _SMALL * max(float(activation.max()), 1e-12))
    w = np.abs(weight).max(axis=1)
    w = np.maximum(w, _SMALL * max(float(w.max()), 1e-12))
    log = strength * np.log(x) - (1 - strength) * np.log(w)
    scaled: NDArray[np.float32] = np.exp(log - log.mean()).astype(np.float32)
    return scaled


def _best(sample: ChannelSample, weight: NDArray[np.float32], method: Method) -> Smoothing | None:
    exact = sample.rows @ weight
    least, best = _error(sample.rows, weight, exact, method), None
    for strength in STRENGTHS:
        s = factors(sample.largest, weight, strength)
        error = _error(sample.rows / s, weight * s[:, None], exact, method)
        if error < least:
            least, best = error, Smoothing(strength, s)
    return best


def _error(rows: NDArray[np.float32], weight: NDArray[np.float32], exact: NDArray[np.float32], method: Method) -> float:
    """Mean squared error of the product of both, rounded to INT8; for FP8 too, whose own errors are smaller."""
    rounded = round_activation(rows, threshold(Histogram().added(rows), method))
    return float(((rounded @ round_weight(weight, axis=1) - exact) ** 2).mean())


def _weight(graph: Graph, layer: Layer) -> NDArray[np.float32]:
    stored = next(weight for weight in graph.model.graph.initializer if weight.name == layer.weight)
    values: NDArray[np.float32] = graph.array(stored)
    return values
