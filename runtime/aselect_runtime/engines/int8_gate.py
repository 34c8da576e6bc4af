"""INT8 on TensorRT: taken where it is faster than the next graph of the folder, on the GPU that it was built on."""

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
    int8: Passing[Engine], climb: Callable[[], Passing[Engine]], candidate: Path, latency: Mapping[str, float]
) -> Passing[Engine]:
    """The INT8 engine, or that of the next graph unless INT8 is MARGIN times faster; its file is `candidate` then.

    `climb` builds and verifies the other graphs, at `candidate` too; `latency` has the milliseconds of each graph that
    was built, at the end. Where no other graph can be built, INT8 stays. A line in the log says which and why.
    """
    kept = candidate.with_name(f"{candidate.name}.int8")
    candidate.replace(kept)
    try:
        other = climb()
    except (EngineError, GateError) as error:
        kept.replace(candidate)
        return replace(int8, notes=(*int8.notes, f"INT8 has nothing to be compared with: {error}"))
    wins = latency[other.rung] >= MARGIN * latency[int8.rung]
    taken = int8 if wins else other
    if wins:
        kept.replace(candidate)
    kept.unlink(missing_ok=True)
    times = ", ".join(f"{passing.rung} {latency[passing.rung]:.2f} ms" for passing in (int8, other))
    log.info("took %s: INT8 must be %s times faster here than the next graph; measured %s", taken.rung, MARGIN, times)
    parity = (*(other if wins else int8).parity, *taken.parity)  # the last is of the engine that is taken
    return replace(taken, parity=parity, notes=(*int8.notes, *other.notes))
