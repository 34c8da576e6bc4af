"""Quantisation of a verified FP32 graph to INT8, FP8 or INT4 weights, as accurate as allowed.

find the scheme ──▶ rank the layers ──▶ return the worst ones until the drop fits ──▶ check
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aselect_calibration.layers import Layer
from aselect_calibration.ranges import Ranges
from aselect_calibration.sensitivity import Damage, Outcome, give_back, rank
from aselect_calibration.settings import Form, Rest
from aselect_export.graph import LOGITS
from aselect_export.ladder import Candidate
from aselect_export.schemes import Scheme, Subject, find_scheme
from aselect_export.verify import batches
from aselect_export.yardstick import Yardstick, find_yardstick, has_other_classes
from aselect_runtime.errors import GateError
from aselect_runtime.records import LayerDecision, Quantisation

MAX_DROP = 0.003
"""Default allowed drop of mIoU or top-1."""
MAX_DISAGREEMENT = 0.01
"""Default without labels; larger, because pixels that change class in both directions cancel out in an accuracy."""

RANKED = 4
"""Number of frames on which the layers are ranked, rounded up to whole batches."""


@dataclass(frozen=True)
class Quantised:
    """The quantised rung that passed its check, and its parameters."""

    candidate: Candidate
    quantisation: Quantisation
    ranges: Ranges | None
    notes: tuple[str, ...]


def quantise(form: Form, subject: Subject, tried: Sequence[Candidate], data: Path | None) -> Quantised:
    """The quantised graph of an FP32 traced graph, accurate enough, with the rungs above it already `tried`.

    The drop is measured on `data` if it has labels. Raises InputError, or GateError if no graph keeps the allowed drop.
    """
    trial, progress = subject.trial, subject.progress
    scheme = find_scheme(form, subject, tried)
    few = list(batches(trial.frames, trial.batch))[: -(-RANKED // trial.batch)]
    ranked = rank(subject.traced, scheme.build, scheme.layers, few, LOGITS, progress)
    progress("measuring the fp32 graph", 0.0)
    yardstick = find_yardstick(subject.bundle, subject.traced, trial, data, subject.frames)
    outcome, limit = _found(scheme, ranked, yardstick, subject)
    progress(f"checking the {form} graph", 0.0)
    graph = scheme.build([layer for layer in scheme.layers if layer not in outcome.returned]).check()
    candidate = trial.judge(graph, form)
    if not candidate.verdict.passed:
        raise GateError(
            f"{candidate.verdict}, expected 90% same class; calibrate by another method or use the precision fp32",
            parameter=("calib", "precision"),
        )
    quantisation = _recorded(scheme, yardstick, limit, ranked, outcome).model_copy(
        update={"bytes_before": scheme.build([]).size(), "bytes_after": graph.size()}
    )
    notes = latency_notes(candidate, tried, scheme.rest)
    if data is not None and yardstick.metric == "agreement" and has_other_classes(data, subject.bundle.record):
        notes.append(
            f"{form}: the masks of {data} have other classes than the model, so the drop was measured as agreement "
            "with the fp32 graph, not as miou"
        )
    if scheme.ranges is not None and subject.frames is None:
        own = "{}x{}".format(*subject.bundle.record.imgsz)
        notes.append(
            f"{form}: calibrated with the ranges stored in the bundle, measured at {own}; give data to use your own "
            "frames"
        )
    return Quantised(candidate, quantisation, scheme.ranges, tuple(notes))


def _found(scheme: Scheme, ranked: Sequence[Damage], yardstick: Yardstick, subject: Subject) -> tuple[Outcome, float]:
    """The layers that return to higher precision, and the allowed drop; raises GateError if that is not enough."""
    form, total = scheme.form, len(scheme.layers)
    limit = subject.settings.max_drop
    if limit is None:
        limit = MAX_DISAGREEMENT if yardstick.metric == "agreement" else MAX_DROP

    def drop(kept: Sequence[Layer]) -> float:
        subject.progress(f"measuring {yardstick.metric} with {len(kept)} of {total} layers in {form}", 0.0)
        return yardstick.fp32 - yardstick.score(scheme.build(kept))

    outcome = give_back([damage.layer for damage in ranked], drop, limit)
    if not outcome.met:
        raise GateError(
            _missed(form, yardstick, outcome, total, limit),
            parameter=("max_drop", *(() if form == "int4" else ("calib", "calib_images")), "precision"),
        )
    return outcome, limit


def _recorded(
    scheme: Scheme, yardstick: Yardstick, limit: float, ranked: Sequence[Damage], outcome: Outcome
) -> Quantisation:
    ranges = scheme.ranges
    return Quantisation(
        form=scheme.form,
        method=ranges.method if ranges else None,
        calibrated_on=ranges.data if ranges else None,
        rest=scheme.rest,
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


def _missed(form: Form, yardstick: Yardstick, outcome: Outcome, layers: int, limit: float) -> str:
    others = "" if form == "int4" else "calibrate by another method or on more images, "
    instead = "leave the weights as they are" if form == "int4" else "use the precision fp16"
    return (
        f"{form}: the best result loses {outcome.drop:.5f} of {yardstick.metric} (fp32 {yardstick.fp32:.4f}) with "
        f"{len(outcome.returned)} of {layers} layers in higher precision, expected at most {limit:g}; allow a drop of "
        f"{np.ceil(outcome.drop * 1e4) / 1e4:g}, {others}or {instead}"
    )


def latency_notes(found: Candidate, tried: Sequence[Candidate], rest: Rest) -> list[str]:
    """Notes on the target: which hardware the graph suits, and if INT8 is slower on this CPU."""
    form = found.verdict.rung
    if form == "fp8":
        return [
            "fp8: only GPUs from sm89 on (Ada, Hopper, Blackwell) compute in FP8, Jetson Orin does not; other devices "
            "round to FP8 and compute in FP16, which is slower than the precision fp16"
        ]
    if form == "int4":
        return ["int4: the weights need less memory; whether that is faster depends on the device: compare the rungs"]
    if rest == "fp16":
        return [
            "int8: the other layers are FP16, which suits GPUs; latency on this CPU does not predict GPUs: compare "
            "the rungs on the target with aselect-bench, because INT8 is not always the fastest"
        ]
    notes = ["int8: the other layers are FP32, which suits CPUs; for a GPU choose fp16 for them"]
    fastest = min((one.verdict for one in tried if one.verdict.passed), key=lambda verdict: verdict.latency)
    if found.verdict.latency >= fastest.latency:
        asked = "fp16" if fastest.rung == "mixed" else fastest.rung
        notes.append(
            f"int8 is slower than {fastest.rung} in ONNX Runtime on this CPU ({found.verdict.latency:.1f} ms "
            f"compared with {fastest.latency:.1f} ms): use the precision {asked} on a CPU like this one"
        )
    return notes
