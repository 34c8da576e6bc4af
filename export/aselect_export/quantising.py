"""INT8: quantisation of a verified FP32 graph for `--precision int8`.

calibrate (or use the bundle's ranges) ──▶ smooth ──▶ rank the layers ──▶ return the worst ones until the drop fits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aselect_calibration.cache import cached
from aselect_calibration.calibrating import Prepared, calibrate, prepare
from aselect_calibration.frames import CalibrationFrames
from aselect_calibration.graphs import digest
from aselect_calibration.insertion import Int8Weights, quantised
from aselect_calibration.layers import Layer, find_layers
from aselect_calibration.ranges import Ranges
from aselect_calibration.sensitivity import Damage, Outcome, give_back, rank
from aselect_calibration.settings import Int8Settings, Rest
from aselect_calibration.thresholds import Method
from aselect_calibration.weights import Graph, WeightFile
from aselect_edge.bundle import LoadedBundle
from aselect_export.activations import record_spans
from aselect_export.graph import LOGITS
from aselect_export.ladder import Candidate, Trial
from aselect_export.precision import CastPlan, convert, fp16, products
from aselect_export.verify import batches
from aselect_export.yardstick import Yardstick, find_yardstick
from aselect_runtime.errors import GateError
from aselect_runtime.local_cache import cache_folder
from aselect_runtime.progress import Progress
from aselect_runtime.records import LayerDecision, Quantisation

MAX_DROP = 0.003
"""Default allowed drop of mIoU or top-1."""
MAX_DISAGREEMENT = 0.01
"""Default without labels; larger, because pixels that change class in both directions cancel out in an accuracy."""

RANKED = 4
"""Number of frames on which the layers are ranked, rounded up to whole batches."""

RANGES = "ranges.json"
"""File name of a bundle's activation ranges."""


@dataclass(frozen=True)
class Int8:
    """The INT8 rung that passed its check, and its parameters."""

    candidate: Candidate
    quantisation: Quantisation
    ranges: Ranges
    notes: tuple[str, ...]


def quantise(
    bundle: LoadedBundle,
    traced: Graph,
    tried: Sequence[Candidate],
    trial: Trial,
    *,
    data: Path | None,
    frames: CalibrationFrames | None,
    settings: Int8Settings,
    progress: Progress,
) -> Int8:
    """The INT8 graph of an FP32 traced graph, accurate enough, with the rungs above it already `tried`.

    It is calibrated on `frames`, or without frames by the ranges stored in the bundle. Raises InputError, or GateError
    if no INT8 graph keeps the allowed drop.
    """
    rest = settings.rest or "fp32"
    weights = WeightFile(traced.folder, "int8.weights")
    layers = find_layers(traced, LOGITS)
    ranges = _ranges(bundle, traced, layers, frames, settings.method, weights, progress)
    ready = prepare(traced, layers, ranges, weights)
    build = _builder(ready, tried, trial, rest, weights, progress)
    few = list(batches(trial.frames, trial.batch))[: -(-RANKED // trial.batch)]
    ranked = rank(traced, build, layers, few, LOGITS, progress)
    progress("measuring the fp32 graph", 0.0)
    yardstick = find_yardstick(bundle, traced, trial, data, frames)
    limit = settings.max_drop
    if limit is None:
        limit = MAX_DISAGREEMENT if yardstick.metric == "agreement" else MAX_DROP

    def drop(kept: Sequence[Layer]) -> float:
        progress(f"measuring {yardstick.metric} with {len(kept)} of {len(layers)} layers in INT8", 0.0)
        return yardstick.fp32 - yardstick.score(build(kept))

    outcome = give_back([damage.layer for damage in ranked], drop, limit)
    if not outcome.met:
        raise GateError(
            _missed(yardstick, outcome, len(layers), limit),
            parameter=("max_drop", "calib", "calib_images", "precision"),
        )
    progress("checking the int8 graph", 0.0)
    candidate = trial.judge(build([layer for layer in layers if layer not in outcome.returned]).check(), "int8")
    if not candidate.verdict.passed:
        raise GateError(
            f"{candidate.verdict}, expected 90% same class; calibrate by another method or use the precision fp32",
            parameter=("calib", "precision"),
        )
    quantisation = _recorded(ranges, rest, yardstick, limit, ranked, outcome)
    notes = latency_notes(candidate, tried, rest)
    if data is None:
        notes.append("int8: calibrated with the ranges stored in the bundle; give data to use your own frames")
    return Int8(candidate, quantisation, ranges, tuple(notes))


def _recorded(
    ranges: Ranges, rest: Rest, yardstick: Yardstick, limit: float, ranked: Sequence[Damage], outcome: Outcome
) -> Quantisation:
    return Quantisation(
        method=ranges.method,
        calibrated_on=ranges.data,
        rest=rest,
        metric=yardstick.metric,
        images=yardstick.images,
        fp32=yardstick.fp32,
        int8=yardstick.fp32 - outcome.drop,
        max_drop=limit,
        measurements=len(outcome.measured),
        layers=tuple(
            LayerDecision(layer=one.layer.name, damage=one.noise, int8=one.layer not in outcome.returned)
            for one in ranked
        ),
    )


def _ranges(
    bundle: LoadedBundle,
    traced: Graph,
    layers: Sequence[Layer],
    frames: CalibrationFrames | None,
    method: Method,
    weights: WeightFile,
    progress: Progress,
) -> Ranges:
    """Ranges measured on frames (or read from the cache), or without frames those stored in the bundle."""
    if frames is not None:
        batch = traced.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        return cached(
            cache_folder("calibration"),
            digest(traced),
            frames.fingerprint,
            method,
            batch,
            lambda: calibrate(traced, layers, frames, method, weights, progress),
        )
    return Ranges.load(bundle.folder / RANGES)


def _builder(
    ready: Prepared, tried: Sequence[Candidate], trial: Trial, rest: Rest, weights: WeightFile, progress: Progress
) -> Callable[[Sequence[Layer]], Graph]:
    """Builder of graphs with any of the layers in INT8 and the others in their precision."""
    smooth = Graph(ready.graph.model, ready.graph.folder)
    int8 = Int8Weights(smooth, weights)
    base = smooth
    if rest == "fp16":
        progress("converting the other layers to fp16", 0.0)
        spans = record_spans(smooth, batches(trial.frames, trial.batch))
        passed = any(one.verdict.rung == "fp16" and one.verdict.passed for one in tried)
        plan: CastPlan = (fp16 if passed else products)(smooth.model, spans)
        wide = {layer.node for layer in ready.layers if not int8.fits_half(layer, ready.ranges.layers[layer.name])}
        base = convert(smooth, plan.half - wide, "int8.rest.weights")

    def build(chosen: Sequence[Layer]) -> Graph:
        # ONNX Runtime's CPU kernels need quantised outputs of convolutions; TensorRT is faster without them.
        made = quantised(base, chosen, ready.ranges.layers, int8, weights, outputs=rest == "fp32")
        return Graph(made.model, made.folder)

    return build


def _missed(yardstick: Yardstick, outcome: Outcome, layers: int, limit: float) -> str:
    return (
        f"int8: the best result loses {outcome.drop:.5f} of {yardstick.metric} (fp32 {yardstick.fp32:.4f}) with "
        f"{len(outcome.returned)} of {layers} layers in higher precision, expected at most {limit:g}; allow a drop of "
        f"{np.ceil(outcome.drop * 1e4) / 1e4:g}, calibrate by another method or on more images, or use the precision "
        "fp16"
    )


def latency_notes(int8: Candidate, tried: Sequence[Candidate], rest: Rest) -> list[str]:
    """Notes on the target: which hardware the other layers' precision suits, and if INT8 is slower on this CPU."""
    if rest == "fp16":
        return [
            "int8: the other layers are FP16, which suits GPUs; latency on this CPU does not predict GPUs: compare "
            "the rungs on the target with aselect-bench, because INT8 is not always the fastest"
        ]
    notes = ["int8: the other layers are FP32, which suits CPUs; for a GPU choose fp16 for them"]
    fastest = min((one.verdict for one in tried if one.verdict.passed), key=lambda verdict: verdict.latency)
    if int8.verdict.latency >= fastest.latency:
        asked = "fp16" if fastest.rung == "mixed" else fastest.rung
        notes.append(
            f"int8 is slower than {fastest.rung} in ONNX Runtime on this CPU ({int8.verdict.latency:.1f} ms "
            f"compared with {fastest.latency:.1f} ms): use the precision {asked} on a CPU like this one"
        )
    return notes
