"""How a traced graph is quantised: INT8 and FP8 by ranges of its activations, INT4 weights without any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aselect_calibration.cache import cached
from aselect_calibration.calibrating import calibrate, prepare
from aselect_calibration.frames import CalibrationFrames
from aselect_calibration.graphs import digest
from aselect_calibration.insertion import Int8Weights, quantised
from aselect_calibration.int4 import Int4Weights, find_int4_layers, with_int4
from aselect_calibration.layers import Layer, find_layers
from aselect_calibration.ranges import Ranges
from aselect_calibration.rounding import FP8
from aselect_calibration.settings import Form, Int8Settings, Rest
from aselect_calibration.weights import Graph, WeightFile
from aselect_edge.bundle import LoadedBundle
from aselect_export.activations import record_spans
from aselect_export.graph import LOGITS
from aselect_export.ladder import Candidate, Trial
from aselect_export.precision import CastPlan, convert, fp16, products
from aselect_export.verify import batches
from aselect_runtime.errors import InputError
from aselect_runtime.local_cache import cache_folder
from aselect_runtime.progress import Progress

RANGES = "ranges.json"
"""File name of a bundle's activation ranges."""


@dataclass(frozen=True)
class Subject:
    """What is quantised: a bundle's FP32 graph, and the frames to calibrate on.

    Without frames, the ranges stored in the bundle are used.
    """

    bundle: LoadedBundle
    traced: Graph
    trial: Trial
    frames: CalibrationFrames | None
    settings: Int8Settings
    progress: Progress


@dataclass(frozen=True)
class Scheme:
    """One way of quantising a graph: the layers that it can change, and the graph with any of them changed."""

    form: Form
    rest: Rest
    layers: tuple[Layer, ...]
    build: Callable[[Sequence[Layer]], Graph]
    ranges: Ranges | None = None


def find_scheme(form: Form, subject: Subject, tried: Sequence[Candidate]) -> Scheme:
    """The scheme for a format, with the rungs above it already `tried`.

    Raises InputError if the graph has no layer for it or the ranges do not fit.
    """
    # Where fp16 failed its check, only products are FP16.
    half_works = any(one.verdict.rung == "fp16" and one.verdict.passed for one in tried)
    return {"int8": _int8, "fp8": _fp8, "int4": _int4}[form](subject, half_works)


def _int8(subject: Subject, half_works: bool) -> Scheme:
    rest = subject.settings.rest or "fp32"
    weights = WeightFile(subject.traced.folder, "int8.weights")
    layers = find_layers(subject.traced, LOGITS)
    ranges = _ranges(subject, layers, weights, "int8")
    ready = prepare(subject.traced, layers, ranges, weights)
    int8 = Int8Weights(ready.graph, weights)
    base = ready.graph
    if rest == "fp16":
        wide = {layer.node for layer in layers if not int8.fits_half(layer, ranges.layers[layer.name])}
        base = convert(base, _half(base, subject, half_works).half - wide, "int8.rest.weights")

    def build(chosen: Sequence[Layer]) -> Graph:
        # ONNX Runtime's CPU kernels need quantised outputs of convolutions; TensorRT is faster without them.
        return quantised(base, chosen, ranges.layers, int8, weights, outputs=rest == "fp32")

    return Scheme("int8", rest, layers, build, ranges)


def _fp8(subject: Subject, half_works: bool) -> Scheme:
    """Only linear layers that compute in FP16: older TensorRT has FP8 for matrix products, not for convolutions."""
    weights = WeightFile(subject.traced.folder, "fp8.weights")
    every = find_layers(subject.traced, LOGITS)
    ranges = _ranges(subject, every, weights, "fp8")
    ready = prepare(subject.traced, every, ranges, weights)
    plan = _half(ready.graph, subject, half_works)
    layers = tuple(layer for layer in every if layer.kind != "Conv" and layer.node in plan.half)
    if not layers:
        raise InputError(
            "got a model without a linear layer that can compute in FP16, expected at least one for fp8; use the "
            "precision fp32 or int8",
            parameter="precision",
        )
    fp8 = Int8Weights(ready.graph, weights, FP8)
    base = convert(ready.graph, plan.half, "fp8.rest.weights")

    def build(chosen: Sequence[Layer]) -> Graph:
        return quantised(base, chosen, ranges.layers, fp8, weights, outputs=False)

    return Scheme("fp8", "fp16", layers, build, ranges)


def _int4(subject: Subject, half_works: bool) -> Scheme:
    rest = subject.settings.rest or "fp16"
    layers = find_int4_layers(subject.traced, LOGITS)
    int4 = Int4Weights(subject.traced, WeightFile(subject.traced.folder, "int4.weights"))
    base = subject.traced
    if rest == "fp16":
        base = convert(base, _half(base, subject, half_works).half, "int4.rest.weights")
    return Scheme("int4", rest, layers, lambda chosen: with_int4(base, chosen, int4))


def _half(graph: Graph, subject: Subject, works: bool) -> CastPlan:
    """The nodes of the quantised graph that compute in FP16 if they are not quantised."""
    subject.progress("converting the other layers to fp16", 0.0)
    spans = record_spans(graph, batches(subject.trial.frames, subject.trial.batch))
    return (fp16 if works else products)(graph.model, spans)


def _ranges(subject: Subject, layers: Sequence[Layer], weights: WeightFile, form: Form) -> Ranges:
    """Ranges measured on frames (or read from the cache), or without frames those stored in the bundle."""
    frames, traced = subject.frames, subject.traced
    if frames is None:
        return Ranges.load(subject.bundle.folder / RANGES)
    method = subject.settings.method_for(form)
    return cached(
        cache_folder("calibration"),
        digest(traced),
        frames.fingerprint,
        method,
        subject.trial.batch,
        lambda: calibrate(traced, layers, frames, method, weights, subject.progress),
    )
