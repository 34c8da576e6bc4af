"""Export: from a bundle to a folder that a device can run, in which every graph is verified."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aselect_calibration.settings import Form, Int8Settings
from aselect_export.choices import EngineChoice
from aselect_export.engine_plan import build_planned, plan_engines
from aselect_export.requests import CALIBRATED, check_precision, find_form, settle
from aselect_runtime.errors import InputError
from aselect_runtime.folder import EXPORT
from aselect_runtime.options import refuse_unused
from aselect_runtime.output_folder import atomic_folder
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import EncoderCost, EncoderKind, Manifest, Precision, Replacement, Report, Task, Weights

if TYPE_CHECKING:
    from torch import nn

    from aselect_calibration.frames import CalibrationFrames
    from aselect_calibration.weights import Graph
    from aselect_edge.bundle import LoadedBundle
    from aselect_export.ladder import Candidate, Trial
    from aselect_export.quantising import Quantised
    from aselect_export.schemes import Subject
    from aselect_export.verify import Rung
    from aselect_runtime.frames import Frame

FRAMES = 8
"""Number of verification frames, rounded up to whole batches."""


@dataclass(frozen=True)
class ExportResult:
    """A written export folder: its contents, the rung of `model.onnx`, and notes for the user."""

    folder: Path
    manifest: Manifest
    report: Report
    rung: Rung


def export(
    bundle: LoadedBundle,
    precision: Precision,
    out: Path,
    *,
    weights: Weights | None = None,
    imgsz: tuple[int, int] | None = None,
    batch: int = 1,
    ladder: bool = True,
    allow_mixed: bool = False,
    targets: tuple[str, ...] = (),
    engine: EngineChoice = "auto",
    data: Path | None = None,
    int8: Int8Settings | None = None,
    encoder: EncoderKind = "full",
    vae: str | None = None,
    progress: Progress = silent,
) -> ExportResult:
    """Write the export folder `out` of a loaded bundle, completely or not at all.

    `weights` "int4" stores those of the linear layers in 4 bits. `imgsz` is (height, width), the bundle's own if None.
    `ladder` adds fallback graphs of higher precision.
    `allow_mixed` uses the mixed graph as model.onnx if the fp16 one fails its parity check. `data` is a folder of
    images or a video to verify on, instead of synthetic street scenes; INT8 and FP8 are also calibrated on it, as
    `int8` specifies. An `encoder` other than the full one is compared with it on `data`, with the `max_drop` of `int8`;
    the encoder tiny is the AutoencoderTiny of `vae`. Raises InputError, WriteError, GateError (a check failed) or
    EngineError.
    """
    check_precision(precision)
    form = find_form(precision, weights)
    if precision != "fp16" or form:
        where = "int4 weights" if form == "int4" else f"the precision {precision}"
        refuse_unused({"allow_mixed": allow_mixed}, where, "fp16 weights", ("precision",))
    if encoder != "full" and data is None:
        raise InputError(
            f"got the encoder {encoder} and no data, expected images of the task to hold it against the full one on; "
            "give data",
            parameter="data",
        )
    full, bundle = bundle, bundle.with_encoder(encoder, vae)
    plan = plan_engines(engine, targets, precision)
    settings = settle(int8 or Int8Settings(), form, precision, builds=bool(plan.builds))
    with atomic_folder(out, EXPORT) as folder:
        # torch and onnx take seconds to import: wrong arguments are reported before.
        from aselect_export import package
        from aselect_export.ladder import choose_rungs
        from aselect_export.replacement import hold_against_full
        from aselect_export.reporting import notes_of, report_of
        from aselect_export.schemes import Subject
        from aselect_export.verify import verification_frames

        record = bundle.record
        size = imgsz or record.imgsz
        frames, origin = verification_frames(data, -(-FRAMES // batch) * batch, size, record.resize, record.task)
        calibration = _calibration(bundle, data, settings, batch, size) if precision in CALIBRATED else None
        quantised: Quantised | None = None
        replacement: Replacement | None = None
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            traced, trial, before, cost = _prepare(bundle, precision, batch, frames, Path(scratch), progress)
            if data is not None and cost is not None:
                replacement = hold_against_full(full, bundle, traced, trial, data, cost, settings.max_drop, progress)
            if form is not None:
                subject = Subject(bundle, traced, trial, calibration, settings, progress)
                quantised, above = _quantised(form, precision, subject, data)
                tried = [quantised.candidate, *(above if ladder else [])]
                package.write_quantisation(folder, quantised)
            else:
                tried = choose_rungs(traced, precision, trial, progress, ladder=ladder, allow_mixed=allow_mixed)
            passed = [candidate for candidate in tried if candidate.verdict.passed]
            progress("writing the graphs", 0.0)
            manifest = package.write_graphs(folder, record, precision, weights, passed)
        package.write_verification(folder, trial)
        engines = build_planned(folder, plan, progress)
        few = [f"{form}: {calibration.note}"] if calibration and calibration.note else []
        notes = [origin, *few, *notes_of(tried, quantised, record, replacement), *plan.notes]
        report = report_of(folder, tried, before, notes, quantised, replacement)
        manifest = package.keep_engines(out, folder, package.seal(folder, manifest, report, engines))
    return ExportResult(out, manifest, report, passed[0].verdict.rung)


def _prepare(
    bundle: LoadedBundle,
    precision: Precision,
    batch: int,
    frames: Frame,
    folder: Path,
    progress: Progress,
) -> tuple[Graph, Trial, dict[str, int], EncoderCost | None]:
    """Everything that needs torch: the reference's answer, the traced graph, torch's half precision, weight bytes and
    the cost of the encoder.

    No torch model is kept after the call: a session holds the weights again.
    """
    from aselect_export import package
    from aselect_export.graph import trace
    from aselect_export.halves import halves_of_torch
    from aselect_export.ladder import Trial
    from aselect_export.replacement import tokens_cost
    from aselect_export.verify import answer_of_torch

    record = bundle.record
    size = (frames.shape[1], frames.shape[2])
    progress("running the reference", 0.0)
    reference = answer_of_torch(bundle.reference(size, lean=True), record.task, frames, batch)
    if not np.isfinite(reference.logits).all():
        raise InputError(
            f"{bundle.folder}: got NaN or infinity from the model on the verification frames, expected finite logits; "
            "check the weights or train again",
            parameter="model",
        )
    progress("tracing the deployed graph", 0.0)
    model = bundle.deployed(size)
    weights = {
        "backbone_float32_bytes": _weight_bytes(package.full_backbone(record)),
        "deployed_float32_bytes": _weight_bytes(model),
    }
    cost = None if bundle.encoder == "full" else tokens_cost(model, size)
    traced = trace(model, record.task, batch, size, folder)
    progress("running torch in half precision", 0.0)
    halves = halves_of_torch(model, record.task, frames, batch) if precision != "fp32" else {}
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.new_empty(0)  # the exporter's caches still refer to the tensors
    return traced, Trial(record.task, batch, frames, reference, halves), weights, cost


def _calibration(
    bundle: LoadedBundle, data: Path | None, settings: Int8Settings, batch: int, size: tuple[int, int]
) -> CalibrationFrames | None:
    """The calibration frames, in whole batches; None to use the ranges stored in the bundle."""
    from aselect_calibration import calibration_frames
    from aselect_calibration.ranges import Ranges
    from aselect_export.schemes import RANGES

    if data is not None:
        return calibration_frames(data, settings.images, size, bundle.record.resize, batch, bundle.record.task)
    if RANGES not in bundle.record.files:
        raise InputError(
            f"{bundle.folder / RANGES}: no such file, and no data, expected one of them; give data (images or a video "
            "from the camera) or store ranges in the bundle with python -m aselect_export.ranges",
            parameter="data",
        )
    stored = Ranges.load(bundle.folder / RANGES).method
    if settings.method not in (None, stored):
        raise InputError(
            f"got the method {settings.method} and no data, expected data to calibrate on, because the bundle's ranges "
            f"were found by {stored}; give data or leave the method out",
            parameter=("calib", "data"),
        )
    return None


def _quantised(
    form: Form, precision: Precision, subject: Subject, data: Path | None
) -> tuple[Quantised, list[Candidate]]:
    """The quantised rung, and the rungs above it."""
    from aselect_export.ladder import choose_rungs
    from aselect_export.quantising import quantise

    # A failure of fp16 does not affect a quantised graph: its place on the ladder stays empty.
    asked: Precision = "fp32" if precision == "fp32" else "fp16"
    above = choose_rungs(subject.traced, asked, subject.trial, subject.progress, ladder=True, allow_mixed=True)
    return quantise(form, subject, above, data), above


def open_bundle(task: Task | None, model: Path | None) -> LoadedBundle:
    """Load a bundle folder, or the one included for a task; raises InputError if its task is not `task`."""
    from aselect_edge.bundle import SHIPPED, load_bundle

    if model is None:
        if task is None:
            raise InputError(
                "got neither a task nor a model, expected one; for example the task seg", parameter=("task", "model")
            )
        model = SHIPPED[task]
    bundle = load_bundle(model)
    if task is not None and bundle.record.task != task:
        raise InputError(
            f"{model}: got a bundle for {bundle.record.task}, expected one for the task {task}; use the task "
            f"{bundle.record.task} or choose another model",
            parameter=("task", "model"),
        )
    return bundle


def _weight_bytes(module: nn.Module) -> int:
    # By identity, because a state dict lists shared weights once per use.
    tensors = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
