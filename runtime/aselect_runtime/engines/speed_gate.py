"""INT8 and FP8 on TensorRT: used only if faster than the next graph of the folder on this GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from aselect_runtime.engines.parity import Passing
from aselect_runtime.errors import EngineError, GateError
from aselect_runtime.records import Engine
from aselect_runtime.sessions.latency import MARGIN

log = logging.getLogger(__name__)

KEPT = ".first"
"""Suffix of the first engine's file while the second one is built."""


def faster(
    first: Passing[Engine],
    precision: str,
    build_others: Callable[[], Passing[Engine]],
    candidate: Path,
    latency: Mapping[str, float],
) -> Passing[Engine]:
    """The first engine, of this precision, if it is MARGIN times faster than that of the next graph, else the latter.

    The file of the returned engine is `candidate`. `build_others` builds and verifies the other graphs, also at
    `candidate`; `latency` then has the milliseconds of each graph that was built. If no other graph can be built, the
    first one is used. The decision is logged with its reason.
    """
    name = precision.upper()
    kept = candidate.with_name(f"{candidate.name}{KEPT}")
    candidate.replace(kept)
    try:
        other = build_others()
    except (EngineError, GateError) as error:
        kept.replace(candidate)
        return replace(first, notes=(*first.notes, f"no other engine to compare the speed of {name} with: {error}"))
    wins = latency[other.rung] >= MARGIN * latency[first.rung]
    taken = first if wins else other
    if wins:
        kept.replace(candidate)
    kept.unlink(missing_ok=True)
    times = ", ".join(f"{passing.rung} {latency[passing.rung]:.2f} ms" for passing in (first, other))
    rule = f"{name} must be {MARGIN} times faster here than the next graph"
    log.info("using %s: %s; measured %s", taken.rung, rule, times)
    parity = (*(other if wins else first).parity, *taken.parity)  # the last one is of the chosen engine
    return replace(taken, parity=parity, notes=(*first.notes, *other.notes))
