"""Export: from a bundle to a folder that a device can run, with every graph in it verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aselect_edge.command import choice
from aselect_edge.errors import InputError
from aselect_edge.files import atomic_folder
from aselect_edge.records import Engine, Manifest, Precision, Report, Task
from aselect_runtime.engine import Builder as EngineBuilder
from aselect_runtime.engine import available, build_engine, check_target, engine_name, find_gpu

if TYPE_CHECKING:
    from torch import nn

    from aselect_edge.bundle import LoadedBundle
    from aselect_export.ladder import Candidate, Trial
    from aselect_export.verify import Rung

EngineChoice = Literal["auto", "tensorrt", "rtx", "none"]
FRAMES = 8
"""Verification frames, rounded up to whole batches."""


@dataclass(frozen=True)
class ExportResult:
    """An export folder that was written: what it holds, which rung `model.onnx` is, and what to know about it."""

    folder: Path
    manifest: Manifest
    report: Report
    rung: Rung


@dataclass(frozen=True)
class EnginePlan:
    """The engines to build, checked before the long work starts; `notes` say why there are none."""

    builds: tuple[tuple[EngineBuilder, str], ...]
    notes: tuple[str, ...] = ()


def export(
    bundle: LoadedBundle,
    precision: Precision,
    out: Path,
    *,
    imgsz: tuple[int, int] | None = None,
    batch: int = 1,
    ladder: bool = True,
    allow_mixed: bool = False,
    targets: tuple[str, ...] = (),
    engine: EngineChoice = "auto",
    data: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportResult:
    """Write the export folder `out` of a loaded bundle, whole or not at all.

    `imgsz` is (height, width), the bundle's own if None. `ladder` adds fallback graphs of higher precision.
    `allow_mixed` takes the mixed graph as model.onnx if the fp16 one misses its gate. `data` is a folder of images to
    verify on, instead of synthetic street scenes. Raises InputError, WriteError, GateError (a gate was missed) or
    EngineError.
    """
    check_precision(precision)
    if allow_mixed and precision != "fp16":
        raise InputError(f"got --allow-mixed with --precision {precision}, expected it with fp16 alone; leave it out")
    plan = plan_engines(engine, targets)
    with atomic_folder(out, marker="manifest.json") as folder:
        # torch and onnx take seconds to import: mistakes in the arguments are told before.
        from aselect_export import package
        from aselect_export.graph import trace
        from aselect_export.ladder import Trial, climb
        from aselect_export.verify import answer_of_torch, verification_frames

        record = bundle.record
        size = imgsz or record.imgsz
        frames, origin = verification_frames(data, -(-FRAMES // batch) * batch, size, record.resize)
        progress("running the reference")
        reference = answer_of_torch(bundle.reference(size), record.task, frames, batch)
        progress("tracing the deployed graph")
        model = bundle.deployed(size)
        trial = Trial(model, record.task, batch, frames, reference)
        debug = trace(model, record.task, batch, size)
        weights = {
            "backbone_float32_bytes": _weight_bytes(package.full_backbone(record)),
            "deployed_float32_bytes": _weight_bytes(model),
        }
        tried = climb(debug, precision, trial, progress, ladder=ladder, allow_mixed=allow_mixed)
        passed = [candidate for candidate in tried if candidate.verdict.passed]
        manifest = package.write_graphs(folder, record, precision, passed)
        package.write_verification(folder, trial)
        engines = _build(folder, plan, progress)
        progress("timing the graphs")
        latency = _latency(folder, manifest, trial)
        report = _report(folder, tried, weights, latency, [origin, *_departures(tried), *plan.notes])
        manifest = package.seal(folder, manifest, report, engines)
    return ExportResult(out, manifest, report, passed[0].verdict.rung)


def open_bundle(task: Task | None, model: Path | None) -> LoadedBundle:
    """Load a bundle folder, or the one that ships for a task; raises InputError if its task is not `task`."""
    from aselect_edge.bundle import SHIPPED, load_bundle

    if model is None:
        if task not in SHIPPED:
            raise InputError(
                f"got --task {task} and no --model, expected one of {', '.join(sorted(SHIPPED))}, for which a bundle "
                "ships; give --model BUNDLE, a folder that aselect-train wrote"
            )
        model = SHIPPED[task]
    bundle = load_bundle(model)
    if task is not None and bundle.record.task != task:
        raise InputError(
            f"{model}: got a bundle for {bundle.record.task}, expected one for --task {task}; "
            f"use --task {bundle.record.task} or another --model"
        )
    return bundle


def plan_engines(engine: EngineChoice, targets: tuple[str, ...]) -> EnginePlan:
    """Decide which engines to build and check that they can be; raises InputError or MissingDependencyError."""
    if engine == "none":
        if targets:
            raise InputError(
                f"got --engine none with --target {','.join(targets)}, expected one of them; leave one out"
            )
        return EnginePlan((), ("no engine was asked for",))
    if engine == "auto":
        if not targets and not (find_gpu() and available("tensorrt")):
            return EnginePlan(
                (),
                (
                    "no engine was built: there is no NVIDIA GPU with TensorRT here; give --target sm86 to build "
                    "ahead of time, or run aselect-build on the device",
                ),
            )
        builder: EngineBuilder = "rtx" if targets else "tensorrt"
    else:
        builder = engine
    wanted = dict.fromkeys(check_target(target, builder) for target in targets or (None,))
    return EnginePlan(tuple((builder, target) for target in wanted))


def check_precision(precision: str) -> Precision:
    """The precision that was asked for; raises InputError if this version does not have it."""
    if precision == "int8":
        raise InputError("got --precision int8, expected fp32 or fp16: int8 is not in this version; use fp16")
    return choice(precision, ("fp32", "fp16"), "--precision")  # type: ignore[return-value]


def _build(folder: Path, plan: EnginePlan, progress: Callable[[str], None]) -> tuple[Engine, ...]:
    return tuple(
        build_engine(folder / "model.onnx", folder / engine_name(builder, target), target, builder, progress)
        for builder, target in plan.builds
    )


def _latency(folder: Path, manifest: Manifest, trial: Trial) -> dict[str, float]:
    """Milliseconds by graph, of the files as they ship."""
    from aselect_export.verify import median_latency

    return {
        f"{name}, onnxruntime cpu, batch {trial.batch}, p50 [ms]": median_latency(
            folder / name, trial.frames, trial.batch
        )
        for name in (manifest.model, *manifest.rungs)
    }


def _departures(tried: list[Candidate]) -> list[str]:
    """What the folder lacks of the ladder, and whether model.onnx is another rung than the asked one."""
    notes = [f"{candidate.verdict} (failed, left out)" for candidate in tried if not candidate.verdict.passed]
    if not tried[0].verdict.passed:
        notes.append("model.onnx is the mixed graph, because fp16 missed its gate and --allow-mixed was given")
    return notes


def _report(
    folder: Path, tried: list[Candidate], weights: dict[str, int], latency: dict[str, float], notes: list[str]
) -> Report:
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return Report(
        parity=tuple(parity for candidate in tried for parity in candidate.verdict.parity),
        size=dict(sorted(sizes.items())) | weights,
        latency=latency,
        notes=tuple(notes),
    )


def _weight_bytes(module: nn.Module) -> int:
    # By identity, because a state dict lists shared weights once per place.
    tensors = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
