"""Calibration: from an FP32 graph and frames to the ranges and the smoothing that INT8 needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aselect_calibration.frames import CalibrationFrames
from aselect_calibration.graphs import digest
from aselect_calibration.layers import Layer
from aselect_calibration.observing import channel_samples, histograms
from aselect_calibration.ranges import NormSmoothing, Range, Ranges
from aselect_calibration.smoothing import Smoothing, by_norm, search, smoothed
from aselect_calibration.thresholds import Method, threshold
from aselect_calibration.weights import Graph, WeightFile
from aselect_runtime.errors import InputError
from aselect_runtime.progress import Progress, silent


@dataclass(frozen=True)
class Prepared:
    """An FP32 graph after smoothing, which computes the same function, and the ranges of its layers."""

    graph: Graph
    layers: tuple[Layer, ...]
    ranges: Ranges


def calibrate(
    graph: Graph,
    layers: Sequence[Layer],
    frames: CalibrationFrames,
    method: Method,
    weights: WeightFile,
    progress: Progress = silent,
) -> Ranges:
    """Measure an FP32 graph on frames: once for smoothing, and again after smoothing for the ranges.

    Memory is bounded by the graph, not by the number of frames. Raises InputError for frames that cannot be used.
    """
    norms = list(by_norm(layers))
    samples = channel_samples(graph, norms, frames, progress) if norms else {}
    progress("searching smoothing strengths", 0.0)
    found = search(graph, layers, samples, method)
    smooth = smoothed(graph, layers, found, weights)
    tensors = list(dict.fromkeys(name for layer in layers for name in (layer.input, layer.result) if name))
    seen = histograms(smooth, tensors, frames, progress)
    limits = {name: threshold(histogram, method) for name, histogram in seen.items()}
    return Ranges(
        graph=digest(graph),
        data=frames.fingerprint,
        method=method,
        batch=graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value,
        layers={layer.name: _range(layer, limits) for layer in layers},
        smoothing={norm: _recorded(one) for norm, one in found.items()},
    )


def prepare(graph: Graph, layers: Sequence[Layer], ranges: Ranges, weights: WeightFile) -> Prepared:
    """Apply the recorded smoothing. Raises InputError if the ranges are of a graph with other layers."""
    names = {layer.name for layer in layers}
    if odd := sorted(names.symmetric_difference(ranges.layers)):
        raise InputError(
            f"got activation ranges that differ from the graph in {len(odd)} layers, {odd[0]} first, expected the same "
            "layers; calibrate again on data",
            parameter="data",
        )
    smoothing = {
        norm: Smoothing(one.strength, np.array(one.factors, np.float32)) for norm, one in ranges.smoothing.items()
    }
    return Prepared(smoothed(graph, layers, smoothing, weights), tuple(layers), ranges)


def _range(layer: Layer, limits: Mapping[str, float]) -> Range:
    return Range(input=limits[layer.input], output=limits[layer.result] if layer.result else None)


def _recorded(one: Smoothing) -> NormSmoothing:
    return NormSmoothing(strength=one.strength, factors=tuple(float(f"{value:.6g}") for value in one.factors))
