"""INT8 on TensorRT: used only if it is faster than the next graph of the folder on this GPU."""

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


def faster(
    int8: Passing[Engine], build_others: Callable[[], Passing[Engine]], candidate: Path, latency: Mapping[str, float]
) -> Passing[Engine]:
    """The INT8 engine if it is MARGIN times faster than that of the next graph, otherwise the latter.

    The file of the returned engine is `candidate`. `build_others` builds and verifies the other graphs, also at
    `candidate`; `latency` then has the milliseconds of each graph that was built. If no other graph can be built, INT8
    is used. The decision is logged with its reason.
    """
    kept = candidate.with_name(f"{candidate.name}.int8")
    candidate.replace(kept)
    try:
        other = build_others()
    except (EngineError, GateError) as error:
        kept.replace(candidate)
        return replace(int8, notes=(*int8.notes, f"no other engine to compare the speed of INT8 with: {error}"))
    wins = latency[other.rung] >= MARGIN * latency[int8.rung]
    taken = int8 if wins else other
    if wins:
        kept.replace(candidate)
    kept.unlink(missing_ok=True)
    times = ", ".join(f"{passing.rung} {latency[passing.rung]:.2f} ms" for passing in (int8, other))
    log.info("using %s: INT8 must be %s times faster here than the next graph; measured %s", taken.rung, MARGIN, times)
    parity = (*(other if wins else int8).parity, *taken.parity)  # the last one is of the chosen engine
    return replace(taken, parity=parity, notes=(*int8.notes, *other.notes))
