"""The settings of a strategy and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from aselect_edge.selection.hfr import Measure
from aselect_runtime.errors import InputError
from aselect_runtime.records import LevelWeight, Noise, Score, Tap

if TYPE_CHECKING:
    from aselect_edge.selection.evidence import Evidence
    from aselect_edge.selection.scan import Scan


Parameters: TypeAlias = "Mapping[str, bool | int | float | str]"


SearchHead = Literal["linear", "conv"]
"""The heads that the exhaustive search can train."""


@dataclass(frozen=True)
class Settings:
    """Options of the strategies; each reads those that concern it and lists them in its parameters."""

    measure: Measure = field(default_factory=Measure)
    tap: Tap | None = None
    """The tap for strategies that choose only the noise level; None is `default_tap`."""
    confidence: float = 0.95
    ridge: float = 0.1
    """Penalty of a probe's weights, relative to the mean feature energy."""
    head: SearchHead = "linear"
    """The head that the exhaustive search trains."""
    steps: int = 200
    """Steps of gradient descent, for strategies that train."""

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise InputError(f"got the ridge {self.ridge}, expected a number above 0; change it", parameter="ridge")
        if not 0 < self.confidence < 1:
            raise InputError(
                f"got the confidence {self.confidence}, expected 0 to 1; change it", parameter="confidence"
            )


@dataclass(frozen=True)
class Choice:
    """A strategy's result: the candidate, all scores, and a note about it."""

    noise: Noise
    tap: Tap
    scores: tuple[Score, ...] = ()
    note: str = ""
    parameters: Parameters = field(default_factory=dict)
    distribution: tuple[LevelWeight, ...] = ()
    mixture: tuple[LevelWeight, ...] = ()


Strategy: TypeAlias = "Callable[[Scan, Evidence, Settings], Choice]"


def best_of(scores: Sequence[Score], note: str, parameters: Parameters) -> Choice:
    """The choice of the highest score."""
    best = max(scores, key=lambda score: score.value)
    return Choice(best.noise, best.tap, tuple(scores), note, parameters)


def default_tap(taps: Sequence[Tap], depth: int) -> Tap:
    """The tap that the authors use for SD3-medium, `query` of block 9 of 24, at the same relative depth of `depth`
    blocks.

    If the scan does not include it, the candidate nearest to it.
    """
    block = depth * 9 // 24
    return min(taps, key=lambda tap: (tap.component != "query", abs(tap.block - block)))
