"""What a strategy is set to, and what it answers."""

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


@dataclass(frozen=True)
class Settings:
    """What may be asked of a strategy; each reads what concerns it and names that in its parameters."""

    measure: Measure = field(default_factory=Measure)
    tap: Tap | None = None
    """Where a strategy chooses the noise level alone; None is `default_tap`."""
    confidence: float = 0.95
    ridge: float = 1e-3
    """Relative to the mean feature energy."""
    head: Literal["linear", "conv"] = "linear"
    """What the exhaustive search trains."""
    steps: int = 200
    """Of gradient descent, where there is any."""

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InputError(
                f"got the confidence {self.confidence}, expected 0 to 1; change it", parameter="confidence"
            )


@dataclass(frozen=True)
class Choice:
    """A strategy's answer: the candidate, every score behind it, and what to know about it."""

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
    """Where the authors read SD3-medium, `query` of block 9 of 24, at the same relative depth of `depth` blocks.

    Where the scan leaves that out, the candidate nearest to it.
    """
    block = depth * 9 // 24
    return min(taps, key=lambda tap: (tap.component != "query", abs(tap.block - block)))
