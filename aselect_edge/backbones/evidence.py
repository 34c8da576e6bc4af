"""Find the direction of time and the noise path of a SiT-like file: projects share tensor names but differ in these.

REPA, iREPA, SRA, REPA-E, Self-Flow and MeanFlow feed the embedder the noise share sigma, SiT feeds the image share
1 - sigma. If the direction is wrong, features are those of other noise levels and no error shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from aselect_edge.backbones.facebook import linear_patch
from aselect_edge.backbones.sit import PATHS, TIMES, PathSchedule, Time
from aselect_edge.backbones.sit import Path as Along
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice

_TO_NOISE: dict[str, Along] = {"linear": "linear", "cosine": "cosine"}
"""path_type as written by REPA's training scripts -> the path."""
_TO_DATA: dict[str, Along] = {"Linear": "linear", "GVP": "cosine", "VP": "vp"}
"""path_type as written by SiT's training scripts -> the path."""
_TRAINED_BESIDE = ("projectors", "ap_head", "bn", "r_embedder")
"""Tensors that occur only in projects that feed the noise share."""


def sit_schedule(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    args: Mapping[str, Any],
    time: str | None = None,
    along: str | None = None,
) -> tuple[PathSchedule, list[str]]:
    """The schedule of a SiT-like file and the reasons; `time` and `along` override the file's values, None keeps them.

    Raises InputError if the file does not show it, or if its evidence is contradictory.
    """
    noted = args.get("path_type")
    if along is None and noted is not None and noted not in {**_TO_NOISE, **_TO_DATA}:
        raise InputError(
            f"{path}: got notes of path_type = {noted!r}, expected one of {', '.join([*_TO_DATA, *_TO_NOISE])}; give "
            f"the path, {', '.join(PATHS)}",
            parameter="sit_path",
        )
    meant, why = _time(path, shapes, noted, time)
    if along is not None:
        return PathSchedule(meant, choice(along, PATHS, "sit_path")), [why, f"{along} path (given)"]
    way: Along = "linear" if noted is None else {**_TO_NOISE, **_TO_DATA}[str(noted)]
    reason = "assumed, the file does not say" if noted is None else f"path_type = {noted}"
    return PathSchedule(meant, way), [why, f"{way} path ({reason})"]


def _time(path: Path, shapes: Mapping[str, tuple[int, ...]], noted: object, given: str | None) -> tuple[Time, str]:
    if given is not None:
        return choice(given, TIMES, "sit_time"), f"fed {given} (given)"
    if noted in _TO_NOISE or noted in _TO_DATA:
        time: Time = "sigma" if noted in _TO_NOISE else "1-sigma"
        return time, f"fed {time} (path_type = {noted})"
    if linear_patch(shapes):
        return "sigma", "fed sigma (its patch embedding is a linear layer, as Self-Flow's is)"
    beside = [name for name in _TRAINED_BESIDE if _has(shapes, f"{name}.")]
    learned = _learned_sigma(shapes)
    if beside and not learned:
        return "sigma", f"fed sigma (it has {beside[0]})"
    if learned is False:
        return "sigma", "fed sigma (its output layer has no learned sigma, which SiT's has)"
    if learned and not beside:
        return "1-sigma", "fed 1-sigma (its output layer has a learned sigma, as SiT's)"
    found = f"{beside[0]} and a learned sigma" if beside else "no output layer"
    raise InputError(
        f"{path}: got {found}, expected evidence of the direction of time; give what the model is fed, "
        "sigma (REPA and its successors) or 1-sigma (SiT)",
        parameter="sit_time",
    )


def _has(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _learned_sigma(shapes: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether the output layer has twice the channels; None if there is no output layer."""
    output, patches = shapes.get("final_layer.linear.weight"), shapes.get("x_embedder.proj.weight")
    if output is None or patches is None or len(patches) != 4:
        return None
    return output[0] == 2 * patches[1] * patches[2] * patches[3]
