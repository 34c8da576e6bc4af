"""Noticing a stage that is stuck: every stage says when it starts and ends an operation, a watchdog looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

STALL = 30.0
"""Seconds in one operation after which a stage counts as stuck."""


class Heartbeat:
    """Which stages are in an operation, and since when."""

    def __init__(self, limit: float = STALL) -> None:
        self.limit = limit
        self.stalls: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._stuck: frozenset[str] = frozenset()

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """The stage is in an operation for as long as the block lasts."""
        self._since[stage] = monotonic()
        try:
            yield
        finally:
            self._since.pop(stage, None)

    def stuck(self) -> tuple[str, ...]:
        """The stages that have been in one operation for longer than the limit."""
        late = monotonic() - self.limit
        return tuple(sorted(stage for stage, since in self._since.copy().items() if since < late))

    def newly_stuck(self) -> tuple[str, ...]:
        """Those of `stuck` that the last call did not see; counted in `stalls`."""
        now = frozenset(self.stuck())
        fresh = tuple(sorted(now - self._stuck))
        self._stuck = now
        self.stalls.update(fresh)
        return fresh


@contextmanager
def every(seconds: float, act: Callable[[], None], name: str) -> Iterator[None]:
    """Call `act` in a thread of its own, at once and then again and again, for as long as the block lasts."""
    end = Event()

    def work() -> None:
        act()
        while not end.wait(seconds):
            act()

    thread = Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
