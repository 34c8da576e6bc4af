"""FP8 on TensorRT: which GPUs compute in it, and which graphs of a folder the others can build."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from aselect_runtime.engines.gpu import Gpu
from aselect_runtime.errors import EngineError, InputError
from aselect_runtime.records import Manifest

log = logging.getLogger(__name__)

SINCE = 89
"""Ada (sm89), Hopper (sm90), Blackwell (sm100 and newer; Jetson Thor). Jetson Orin is sm87."""


def has_fp8(target: str) -> bool:
    """Whether GPUs of this target, such as `sm86`, compute in FP8."""
    return int(target.removeprefix("sm")) >= SINCE


def check_fp8(targets: Iterable[str]) -> None:
    """Raise InputError for the first of the targets that has no FP8."""
    for target in targets:
        if not has_fp8(target):
            raise InputError(
                f"got the target {target} for a graph in fp8, expected sm{SINCE} or newer (Ada, Hopper, Blackwell); "
                "export with the precision int8 or fp16 for it",
                parameter=("target", "precision"),
            )


def buildable(manifest: Manifest, rungs: tuple[str, ...], gpu: Gpu) -> tuple[str, ...]:
    """The graphs that this GPU can compute; raises EngineError if there is only one, in FP8, and it cannot."""
    if manifest.precision != "fp8" or has_fp8(gpu.target):
        return rungs
    others = tuple(rung for rung in rungs if rung != manifest.model)
    if not others:
        raise EngineError(
            f"got a graph in fp8 alone, expected another one for {gpu.name} ({gpu.target}), which has no FP8; export "
            "again with the precision int8 or fp16"
        )
    log.warning("%s is in fp8, %s (%s) has no FP8; building %s", manifest.model, gpu.name, gpu.target, others[0])
    return others
