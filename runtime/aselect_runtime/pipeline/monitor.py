"""Counts of a run, updated by all threads, and the snapshots of them that results carry."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aselect_runtime.health import Health, SinkHealth, SourceHealth, SourceState
from aselect_runtime.pipeline.board import power_mode, temperatures
from aselect_runtime.pipeline.heartbeat import Heartbeat

log = logging.getLogger(__name__)

SILENCE = 2.0
FRESH = 0.5
"""Seconds for which a snapshot is reused: a new one for every frame would be too expensive."""


@dataclass
class _Input:
    """Each field is written by one thread only."""

    name: str
    state: SourceState = "connecting"
    frames: int = 0
    repeated: int = 0
    delivered: int = 0
    reconnects: int = 0
    fault: str = ""
    skipped: int = 0
    dropped: Callable[[], int] = lambda: 0


class Monitor:
    """The counts of one run."""

    def __init__(self, names: list[str], heartbeat: Heartbeat) -> None:
        self._inputs = [_Input(name) for name in names]
        self._heartbeat = heartbeat
        self._start = time.monotonic()
        self._taken = -math.inf
        self._health = Health()
        self._temperatures: Mapping[str, float] = MappingProxyType({})
        self._power_mode: str | None = None
        self._rate = 0.0

    def dropping(self, stream: int, dropped: Callable[[], int]) -> None:
        """Set the function that returns how many frames of an input were dropped."""
        self._inputs[stream].dropped = dropped

    def delivered(self, stream: int) -> None:
        """Count a frame of an input."""
        own = self._inputs[stream]
        if own.state == "lost":
            own.reconnects += 1
            log.warning("%s: delivers frames again", own.name)
        own.delivered += 1
        own.state = "live"

    def lost(self, stream: int, fault: str) -> bool:
        """Record that the connection of an input failed; False if it had failed already."""
        own = self._inputs[stream]
        news = own.state != "lost"
        own.state, own.fault = "lost", fault
        return news

    def ended(self, stream: int) -> None:
        """Record that no more frames will come from an input."""
        self._inputs[stream].state = "ended"

    def skipped(self, stream: int, images: int) -> None:
        """Record how many images of an input could not be decoded and were left out."""
        self._inputs[stream].skipped = images

    def answered(self, stream: int, *, repeated: bool = False) -> None:
        """Count a frame with a result, which may repeat that of an earlier frame."""
        self._inputs[stream].frames += 1
        self._inputs[stream].repeated += repeated

    @property
    def began(self) -> bool:
        """Whether any input has delivered a frame."""
        return any(own.delivered for own in self._inputs)

    @property
    def all_failed(self) -> bool:
        """Whether every input has failed without any of them having delivered a frame."""
        return not self.began and all(own.fault for own in self._inputs)

    def read_board(self) -> None:
        """Read temperatures and power mode; this can take milliseconds, so do not call it in the results thread."""
        self._temperatures = MappingProxyType(temperatures())
        self._power_mode = power_mode()

    def sources(self) -> tuple[SourceHealth, ...]:
        """State of each input now."""
        return tuple(
            SourceHealth(
                *(own.name, own.state, own.frames, own.dropped(), own.reconnects, own.fault),
                repeated=own.repeated,
                skipped=own.skipped,
            )
            for own in self._inputs
        )

    def health(self, sinks: Callable[[], tuple[SinkHealth, ...]]) -> Health:
        """A snapshot, at most FRESH seconds old. For one thread."""
        now = time.monotonic()
        elapsed = now - self._taken
        if elapsed < FRESH:
            return self._health
        frames = sum(own.frames for own in self._inputs)
        if self._health.frames:
            self._rate = (frames - self._health.frames) / elapsed
        self._taken = now
        self._health = self.snapshot(sinks(), self._rate)
        return self._health

    def silent_health(self, sinks: Callable[[], tuple[SinkHealth, ...]]) -> Health | None:
        """A snapshot if there was no result for SILENCE seconds, otherwise None; for any thread."""
        return self.snapshot(sinks(), 0.0) if time.monotonic() - self._taken > SILENCE else None

    def snapshot(self, sinks: tuple[SinkHealth, ...], rate: float) -> Health:
        """State of the run now; `rate` is in results per second."""
        return Health(
            sum(own.frames for own in self._inputs),
            round(time.monotonic() - self._start, 3),
            round(rate, 2),
            self.sources(),
            sinks,
            self._heartbeat.stuck(),
            self._temperatures,
            self._power_mode,
        )
