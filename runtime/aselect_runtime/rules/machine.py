"""When an event starts and ends: the state machine of one rule on one input, as pure functions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from aselect_runtime.frames import Frame

ROUNDING = 1e-6
"""Tolerance in seconds for rounding errors in sums of frame times."""


class Limits(Protocol):
    """The parameters of a rule that the state machine uses; see Rule."""

    @property
    def above(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def below(self) -> float: ...
    @property
    def below_for(self) -> float: ...
    @property
    def cooldown(self) -> float: ...


@dataclass(frozen=True)
class Moment:
    """The value of a rule in one frame."""

    seconds: float
    """On the source's clock, which never jumps."""
    value: float
    unix: float = 0.0
    frame: Frame | None = field(default=None, repr=False, compare=False)
    """Kept for the peak only, because frames are large."""


@dataclass(frozen=True)
class Idle:
    """No event, and the value is not above the limit."""


@dataclass(frozen=True)
class Rising:
    """The value is above the limit, but not yet for long enough."""

    first: Moment
    peak: Moment
    last: Moment


@dataclass(frozen=True)
class Active:
    """An event is active."""

    first: Moment
    peak: Moment
    last: Moment
    fell: Moment | None = None
    """Since when the value has been below the lower limit without interruption."""


@dataclass(frozen=True)
class Cooling:
    """An event has ended, and during the cooldown no other starts."""

    until: float
    ended: Active | None = None
    """The last state of the event; set only in the step that ends it."""
    end: Moment | None = None


State = Idle | Rising | Active | Cooling


def advance(limits: Limits, state: State, now: Moment) -> State:
    """The state after one more frame: an event starts when it becomes Active, and ends when that becomes Cooling."""
    if isinstance(state, Active):
        return _while_active(limits, state, now)
    if isinstance(state, Cooling) and now.seconds < state.until - ROUNDING:
        return Cooling(state.until)
    if now.value <= limits.above:
        return Idle()
    bare = replace(now, frame=None)
    first, peak = (state.first, _higher(state.peak, now)) if isinstance(state, Rising) else (bare, now)
    if now.seconds - first.seconds >= limits.seconds - ROUNDING:
        return Active(first, peak, bare)
    return Rising(first, peak, bare)


def stop(limits: Limits, state: State) -> State:
    """The state when frames stop, permanently or for a while: an active event ends with the last frame."""
    if isinstance(state, Active):
        return _ended(limits, state, state.fell or state.last)
    return Cooling(state.until) if isinstance(state, Cooling) else Idle()


def _while_active(limits: Limits, state: Active, now: Moment) -> State:
    bare = replace(now, frame=None)
    fell = None if now.value >= limits.below else state.fell or bare
    ongoing = Active(state.first, _higher(state.peak, now), bare, fell)
    if fell is not None and now.seconds - fell.seconds >= limits.below_for - ROUNDING:
        return _ended(limits, ongoing, fell)
    return ongoing


def _ended(limits: Limits, event: Active, end: Moment) -> Cooling:
    return Cooling(end.seconds + limits.cooldown, event, end)


def _higher(one: Moment, other: Moment) -> Moment:
    return other if other.value > one.value else one
