"""Detecting stalled stages: every stage reports when it starts and ends an operation, and a watchdog checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

STALL = 30.0
"""Seconds in one operation after which a stage counts as stalled."""


class Heartbeat:
    """Records which stages are in an operation, and since when."""

    def __init__(self, limit: float = STALL) -> None:
        self.limit = limit
        self.stalls: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._stuck: frozenset[str] = frozenset()

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Mark the stage as in an operation inside the block."""
        self._since[stage] = monotonic()
        try:
            yield
        finally:
            self._since.pop(stage, None)

    def stuck(self) -> tuple[str, ...]:
        """Names of the stages that have been in one operation for longer than the limit, sorted."""
        late = monotonic() - self.limit
        return tuple(sorted(stage for stage, since in self._since.copy().items() if since < late))

    def newly_stuck(self) -> tuple[str, ...]:
        """The stages of `stuck` that were not stuck at the last call; each is counted in `stalls`."""
        now = frozenset(self.stuck())
        fresh = tuple(sorted(now - self._stuck))
        self._stuck = now
        self.stalls.update(fresh)
        return fresh


@contextmanager
def every(seconds: float, act: Callable[[], None], name: str) -> Iterator[None]:
    """Call `act` in a separate thread, at once and then every `seconds`, until the block ends."""
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
