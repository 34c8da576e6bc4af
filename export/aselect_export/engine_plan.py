"""Decides which engines an export builds, and checks them before the long work starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aselect_export.choices import EngineChoice
from aselect_runtime.engines import build_engine, check_target, engine_name
from aselect_runtime.engines.fp8 import check_fp8
from aselect_runtime.engines.gpu import find_gpu
from aselect_runtime.engines.versions import Builder, available
from aselect_runtime.errors import InputError
from aselect_runtime.progress import Progress
from aselect_runtime.records import Engine, Precision

NO_GPU = (
    "no engine was built: there is no NVIDIA GPU with TensorRT here; give a target such as sm86 to build ahead of "
    "time, or run aselect-build on the device"
)


@dataclass(frozen=True)
class EnginePlan:
    """The engines to build, checked before the long work starts; `notes` give the reason if there are none."""

    builds: tuple[tuple[Builder, str], ...]
    notes: tuple[str, ...] = ()


def plan_engines(engine: EngineChoice, targets: tuple[str, ...], precision: Precision) -> EnginePlan:
    """Decide which engines to build and check that they can be; raises InputError or MissingDependencyError."""
    if engine == "none":
        if targets:
            raise InputError(
                f"got the engine none with the target {','.join(targets)}, expected only one of the two; leave one out",
                parameter=("engine", "target"),
            )
        return EnginePlan((), ("no engine was requested",))
    if engine == "auto":
        if not targets and not (find_gpu() and available("tensorrt")):
            return EnginePlan((), (NO_GPU,))
        builder: Builder = "rtx" if targets else "tensorrt"
    else:
        builder = engine
    wanted = dict.fromkeys(check_target(target, builder) for target in targets or (None,))
    if precision == "fp8":
        check_fp8(wanted)
    return EnginePlan(tuple((builder, target) for target in wanted))


def build_planned(folder: Path, plan: EnginePlan, progress: Progress) -> tuple[Engine, ...]:
    """Build the planned engines of the folder's `model.onnx`, in that folder."""
    return tuple(
        build_engine(folder / "model.onnx", folder / engine_name(builder, target), target, builder, progress)
        for builder, target in plan.builds
    )
