"""Delivery of events: each destination has its own queue and thread, so that none delays inference or another one."""

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
"""Events that may wait for a destination; when the queue is full, the oldest is dropped."""
CLOSE_TIMEOUT = 10.0
"""Seconds that a destination has to accept the waiting events at the end of the run."""
RETRIES = Patience(first_delay=1.0, longest_delay=60.0)
"""How long to wait before an event is sent again."""

log = logging.getLogger(__name__)


class Delivery:
    """One destination for events. An event that it cannot accept now is sent again until the run ends."""

    def __init__(
        self,
        name: str,
        opened: Callable[[], EventSink],
        retries: Patience = RETRIES,
        close_timeout: float = CLOSE_TIMEOUT,
    ) -> None:
        self.name = name
        self._open = opened
        self._retries = retries
        self._close_timeout = close_timeout
        self._queue: Handoff[Event] = Handoff(DEPTH)
        self._fault: BaseException | None = None
        self._written = self._lost = 0
        self._opened, self._over = Flag(), Flag()
        self._thread = Thread(target=self._work, name=f"events {name}", daemon=True)

    def start(self) -> None:
        """Open the destination; raises what it raises."""
        self._thread.start()
        self._opened.wait()
        if self._fault is not None:
            raise self._fault

    def offer(self, event: Event) -> None:
        """Queue an event; never waits."""
        if not self._queue.put(event, newest_wins=True):
            self._lost += 1

    def close(self) -> None:
        """Deliver the waiting events within `close_timeout` seconds, then end."""
        self._queue.close()
        self._thread.join(self._close_timeout)
        self._over.set()
        self._thread.join(self._close_timeout)
        if self._thread.is_alive():
            log.warning("%s: did not end within %.0f s and was abandoned", self.name, 2 * self._close_timeout)
        missing = self._lost + self._queue.dropped + len(self._queue)
        if missing:
            log.warning("%s: %d events could not be delivered", self.name, missing)

    def health(self) -> SinkHealth:
        """State and counts of the destination."""
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
                log.error("%s: %s: %s; no more events are sent there", self.name, type(error).__name__, error)
                self._queue.abandon()
        finally:
            self._opened.set()

    def _deliver(self, deliver: Deliver, event: Event) -> None:
        """Send an event until it is accepted or permanently refused, or the run is over; an error is logged once."""
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
                    log.warning("%s: accepts events again", self.name)
                self._fault = None
                self._written += 1
                return
