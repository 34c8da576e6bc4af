"""The table of strategies: to add one, add a module and one line here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from aselect_edge.data.readers import labels_of
from aselect_edge.selection.by_exhaustive import by_exhaustive
from aselect_edge.selection.by_fixed import by_fixed
from aselect_edge.selection.by_hfr import by_hfr
from aselect_edge.selection.by_hfr_adaptive import by_hfr_adaptive
from aselect_edge.selection.by_hfr_signal import by_hfr_signal
from aselect_edge.selection.by_probe import by_probe
from aselect_edge.selection.by_smallest_sigma import by_smallest_sigma
from aselect_edge.selection.choice import Settings, Strategy
from aselect_edge.selection.hfr import Measure
from aselect_edge.selection.studies.by_gate import by_gate
from aselect_edge.selection.studies.by_learned import by_learned
from aselect_edge.selection.studies.by_uniform import by_uniform
from aselect_runtime.options import refuse_unused
from aselect_runtime.records import Tap, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """How a strategy chooses, and whether it needs labels; without them any images can be used."""

    choose: Strategy
    labels: bool
    looks: bool = True
    """Whether it needs images."""
    images: int = 64
    """Number of images if none is given."""


FOR_USE = {
    "hfr": Entry(by_hfr, labels=False),
    "hfr-signal": Entry(by_hfr_signal, labels=False),
    "hfr-adaptive": Entry(by_hfr_adaptive, labels=False),
    "probe": Entry(by_probe, labels=True, images=256),
    "exhaustive": Entry(by_exhaustive, labels=True, images=256),
    "smallest-sigma": Entry(by_smallest_sigma, labels=False, looks=False),
    "fixed": Entry(by_fixed, labels=False, looks=False),
}
"""The strategies for users."""

STUDIES = {
    "uniform": Entry(by_uniform, labels=False, looks=False),
    "learned": Entry(by_learned, labels=False),
    "gate": Entry(by_gate, labels=True, images=256),
}
"""The strategies for comparison, see `studies`."""

STRATEGIES = FOR_USE | STUDIES

DEFAULT = "smallest-sigma"
"""The label-free strategy with the least paired regret in `python -m benchmarks.selection`; the paper's is `hfr`."""


_MEASURING = ("hfr", "hfr-signal", "hfr-adaptive", "fixed", "learned")
_READ_BY = {
    **dict.fromkeys(("dimensions", "amplitude", "cutoff", "dc"), _MEASURING),
    "confidence": ("hfr-adaptive",),
    "head": ("exhaustive",),
    "steps": ("exhaustive", "learned", "gate"),
    "tap": ("smallest-sigma", "fixed", "uniform", "learned", "gate"),
}
"""The options of `Settings` and `Measure` that only some strategies read."""
_READING = {"images": 0, "batch": 8}
"""The options that decide how images are read, and what they are if not given (`images` may also be None)."""
_UNSET = {**asdict(Measure()), "amplitude": not Measure().power, **vars(Settings())}


def refuse_unread(strategy: str, given: Mapping[str, object]) -> None:
    """Raise InputError for an option, by its name, that was set although the strategy does not read it."""
    for name, value in given.items():
        if value != _UNSET[name] and strategy in STRATEGIES and strategy not in _READ_BY[name]:
            refuse_unused({name: value}, f"the strategy {strategy}", ", ".join(_READ_BY[name]), by=("strategy",))


def refuse_unscanned(
    strategy: str, tap: Tap | None, candidates: Mapping[str, object], data: Path | None, reading: Mapping[str, object]
) -> None:
    """Raise InputError for `candidates` beside a given tap, and for options of `reading` images without images."""
    if tap is not None:
        refuse_unused(candidates, f"the given tap {tap}", "several taps to choose from", by=("tap",))
    if data is None and strategy in STRATEGIES and not STRATEGIES[strategy].looks:
        given = {name: value for name, value in reading.items() if (value or 0) != _READING[name]}
        refuse_unused(given, "no data", "images to measure", by=("data",))


def default_strategy(data: Path | None, task: Task, tap: Tap | None) -> str:
    """The strategy for a request that names none: `probe` if `data` has labels of the task, otherwise DEFAULT.

    A given tap is all that `probe` could add to the least noise, and `probe` would not use it.
    """
    found = None if data is None else labels_of(data, task)
    if found is None:
        return DEFAULT
    if found[0] != task:
        log.warning("%s: has labels of the task %s, which are not used; choose that task to use them", data, found[0])
        return DEFAULT
    return "probe" if tap is None else DEFAULT
