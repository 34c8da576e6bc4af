"""FP8 on TensorRT: which GPUs compute in it."""

from __future__ import annotations

from collections.abc import Iterable

from aselect_runtime.errors import InputError

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
