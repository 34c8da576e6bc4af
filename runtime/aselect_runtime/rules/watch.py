"""Evaluation of all rules on all inputs of a run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.frames import Frame
from aselect_runtime.rules.event import Event, plain
from aselect_runtime.rules.file import Rule, Rules
from aselect_runtime.rules.machine import Active, Cooling, Idle, Moment, State, advance, stop
from aselect_runtime.rules.zones import ZoneShares

RECENT = 20
"""Number of events that `recent` keeps."""
SILENCE = 30.0
"""Seconds without a frame of a live input after which its events end, because the scene is unknown."""


@dataclass(frozen=True)
class Sight:
    """The data of a result that rules use: `class_map` (uint8 [h, w], no borders) or `scores` (float [classes])."""

    stream: int
    source: str
    live: bool
    seconds: float
    """Time on the source's clock: monotonic for a camera, the position in a video."""
    unix: float
    frame: Frame | None
    class_map: Frame | None = None
    scores: NDArray[np.float32] | None = None


@dataclass
class _Input:
    source: str
    live: bool
    seen: float
    """Time of the last frame on the source's clock, which for a live input is time.monotonic."""


class Watch:
    """Evaluates the rules; thread-safe."""

    def __init__(self, rules: Rules, classes: tuple[str, ...]) -> None:
        self.rules = rules
        self._number = {name: index for index, name in enumerate(classes)}
        self._inputs: dict[int, _Input] = {}
        self._states: dict[tuple[int, int], State] = {}
        self._shares: dict[tuple[int, str | None], ZoneShares] = {}
        self._recent: deque[Event] = deque(maxlen=RECENT)
        self._count = 0
        self._names: dict[tuple[int, int], str] = {}
        self._lock = Lock()

    @property
    def recent(self) -> tuple[Event, ...]:
        """The latest events in their current state, without frames, in order of their start."""
        with self._lock:
            return tuple(self._recent)

    def observe(self, sight: Sight) -> list[Event]:
        """Evaluate a frame; returns the events that start or end with it."""
        with self._lock:
            events = self._others_that_ended(sight)
            known = self._inputs.get(sight.stream)
            if known is not None and known.source != sight.source:  # the next file of a folder
                events += self._stop(sight.stream)
                self._forget(sight.stream)
            elif known is not None and sight.live and sight.seconds - known.seen > SILENCE:
                events += self._stop(sight.stream)
            self._inputs[sight.stream] = _Input(sight.source, sight.live, sight.seconds)
            for place, rule in enumerate(self.rules.rules):
                if rule.looks_at(sight.stream):
                    moment = Moment(sight.seconds, self._value(sight, rule), sight.unix, sight.frame)
                    events += self._move(place, sight.stream, moment)
            return events

    def look_for_silence(self, now: float) -> list[Event]:
        """End the events of live inputs without a frame for SILENCE seconds; `now` is monotonic. Returns them."""
        with self._lock:
            silent = [n for n, own in self._inputs.items() if own.live and now - own.seen > SILENCE]
            return [event for stream in silent for event in self._stop(stream)]

    def finish(self) -> list[Event]:
        """End all active events at the end of the run; returns them."""
        with self._lock:
            return [event for stream in self._inputs for event in self._stop(stream)]

    def _others_that_ended(self, sight: Sight) -> list[Event]:
        """End the events of earlier videos: videos run one after the other, so a new one means that they have ended."""
        if sight.live or sight.stream in self._inputs:
            return []
        before = [number for number, own in self._inputs.items() if not own.live]
        return [event for stream in before for event in self._stop(stream)]

    def _value(self, sight: Sight, rule: Rule) -> float:
        number = self._number[rule.class_name]
        if sight.scores is not None:
            return float(sight.scores[number])
        key = (sight.stream, rule.zone)
        if key not in self._shares:
            self._shares[key] = ZoneShares(None if rule.zone is None else self.rules.polygons[rule.zone])
        assert sight.class_map is not None
        return self._shares[key](sight.class_map, number)

    def _move(self, place: int, stream: int, moment: Moment) -> list[Event]:
        before = self._states.get((place, stream), Idle())
        return self._follow(place, stream, before, advance(self.rules.rules[place], before, moment))

    def _stop(self, stream: int) -> list[Event]:
        own = [(place, state) for (place, number), state in self._states.items() if number == stream]
        return [
            event
            for place, state in own
            for event in self._follow(place, stream, state, stop(self.rules.rules[place], state))
        ]

    def _forget(self, stream: int) -> None:
        """Begin as for a new input: a cooldown is on the clock of the old one."""
        self._states = {key: state for key, state in self._states.items() if key[1] != stream}

    def _follow(self, place: int, stream: int, before: State, after: State) -> list[Event]:
        """Store the new state; returns the event that it starts or ends, or []."""
        key = (place, stream)
        self._states[key] = after
        if isinstance(after, Active) and not isinstance(before, Active):
            self._count += 1
            rule = plain(self.rules.rules[place].name)
            self._names[key] = f"{round(after.first.unix * 1000)}-{self._count}-{rule}"
            event = self._event(key, after, None)
        elif isinstance(after, Cooling) and after.ended is not None:
            self._states[key] = Cooling(after.until)
            event = self._event(key, after.ended, after.end)
        else:
            return []
        self._remember(event)
        return [event]

    def _event(self, key: tuple[int, int], state: Active, end: Moment | None) -> Event:
        rule, own = self.rules.rules[key[0]], self._inputs[key[1]]
        return Event(
            id=self._names[key],
            rule=rule.name,
            class_name=rule.class_name,
            zone=rule.zone,
            stream=key[1],
            source=own.source,
            start=state.first.unix,
            end=None if end is None else end.unix,
            seconds=(end or state.last).seconds - state.first.seconds,
            peak=state.peak.value,
            position=None if own.live else state.first.seconds,
            frame=state.peak.frame,
        )

    def _remember(self, event: Event) -> None:
        bare = replace(event, frame=None)
        for place, known in enumerate(self._recent):
            if known.id == event.id:
                self._recent[place] = bare
                return
        self._recent.append(bare)
