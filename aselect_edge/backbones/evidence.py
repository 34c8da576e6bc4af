"""Which way the time of a SiT-like file runs, and along which path: files of different projects have the same names.

REPA, iREPA, SRA, REPA-E and MeanFlow feed the embedder the share of noise, SiT the share of the image. A file read the
wrong way round has features of other noise levels, and nothing else would tell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from aselect_edge.backbones.sit import PATHS, TIMES, PathSchedule, Time
from aselect_edge.backbones.sit import Path as Along
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice

_TO_NOISE: dict[str, Along] = {"linear": "linear", "cosine": "cosine"}
"""path_type as REPA's training scripts note it, and the path that is meant."""
_TO_DATA: dict[str, Along] = {"Linear": "linear", "GVP": "cosine", "VP": "vp"}
"""path_type as SiT's note it."""
_TRAINED_BESIDE = ("projectors", "ap_head", "bn", "r_embedder")
"""What only the projects have that feed the share of noise."""


def sit_schedule(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    args: Mapping[str, Any],
    time: str | None = None,
    along: str | None = None,
) -> tuple[PathSchedule, list[str]]:
    """What the timesteps of a SiT-like file mean, and why; `time` and `along` are what was given, None for the file's.

    Raises InputError where the file does not say, or says different things.
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
        f"{path}: got {found}, expected what tells which way its time runs; give what the model is fed, "
        "sigma (REPA and its successors) or 1-sigma (SiT)",
        parameter="sit_time",
    )


def _has(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _learned_sigma(shapes: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether the output layer has twice the channels; None where there is none."""
    output, patches = shapes.get("final_layer.linear.weight"), shapes.get("x_embedder.proj.weight")
    if output is None or patches is None or len(patches) != 4:
        return None
    return output[0] == 2 * patches[1] * patches[2] * patches[3]
