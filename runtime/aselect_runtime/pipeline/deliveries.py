"""Where events go, each place behind a queue and a thread of its own, so that none holds up inference or another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event as Flag
from threading import Thread

from aselect_runtime.errors import AselectError, WriteError
from aselect_runtime.health import SinkHealth, SinkState
from aselect_runtime.pipeline.handoff import Handoff
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.rules import Event
from aselect_runtime.sinks.event_sink import Deliver, EventSink

DEPTH = 256
"""Events that may wait for a place that does not answer; then the oldest gives way."""
FAREWELL = 10.0
"""Seconds that a place has to take what waits, when the run is over."""
RETRIES = Patience(first_delay=1.0, longest_delay=60.0)
"""How long to wait before an event is given again."""

log = logging.getLogger(__name__)


class Delivery:
    """One place for events. What it cannot take now is given again for as long as the run lasts."""

    def __init__(
        self, name: str, opened: Callable[[], EventSink], retries: Patience = RETRIES, farewell: float = FAREWELL
    ) -> None:
        self.name = name
        self._open = opened
        self._retries = retries
        self._farewell = farewell
        self._queue: Handoff[Event] = Handoff(DEPTH)
        self._fault: BaseException | None = None
        self._written = self._lost = 0
        self._opened, self._over = Flag(), Flag()
        self._thread = Thread(target=self._work, name=f"events {name}", daemon=True)

    def start(self) -> None:
        """Open the place; raises what it raises."""
        self._thread.start()
        self._opened.wait()
        if self._fault is not None:
            raise self._fault

    def offer(self, event: Event) -> None:
        """Give it an event; never waits."""
        if not self._queue.put(event, newest_wins=True):
            self._lost += 1

    def close(self) -> None:
        """Let it take what waits, within `farewell` seconds."""
        self._queue.close()
        self._thread.join(self._farewell)
        self._over.set()
        self._thread.join(self._farewell)
        if self._thread.is_alive():
            log.warning("%s: did not end within %.0f s and was left alone", self.name, 2 * self._farewell)
        missing = self._lost + self._queue.dropped + len(self._queue)
        if missing:
            log.warning("%s: %d events could not be delivered", self.name, missing)

    def health(self) -> SinkHealth:
        """How it is doing."""
        fault = "" if self._fault is None else str(self._fault)
        dropped = self._queue.dropped + self._lost
        state: SinkState = "working" if self._fault is None else "failed"
        return SinkHealth(self.name, state, self._written, dropped, len(self._queue), fault)

    def _work(self) -> None:
        try:
            with self._open() as deliver:
                self._opened.set()
                for event in self._queue:
                    self._deliver(deliver, event)
                    if self._over.is_set():
                        return
        except BaseException as error:
            self._fault = error
            if self._opened.is_set():
                log.error("%s: %s: %s; no more events go there", self.name, type(error).__name__, error)
                self._queue.abandon()
        finally:
            self._opened.set()

    def _deliver(self, deliver: Deliver, event: Event) -> None:
        """Until it is taken, refused for good, or the run is over. What is wrong is said once, not at every attempt."""
        for delay in self._retries.delays():
            try:
                deliver(event)
            except AselectError as error:
                if self._fault is None or not isinstance(error, WriteError):
                    log.warning("%s%s", error, "; trying again" if isinstance(error, WriteError) else "")
                self._fault = error
                if not isinstance(error, WriteError) or self._over.wait(delay):
                    self._lost += 1
                    return
            else:
                if self._fault is not None:
                    log.warning("%s: takes events again", self.name)
                self._fault = None
                self._written += 1
                return
