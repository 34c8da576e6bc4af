"""Delivery of events: each destination has its own queue and thread, so that none delays inference or another one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event as Flag
from threading import Thread
from time import monotonic

from aselect_runtime.errors import AselectError, WriteError
from aselect_runtime.health import SinkHealth, SinkState
from aselect_runtime.pipeline.handoff import Handoff
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.rules import Event
from aselect_runtime.sinks.event_sink import Deliver, EventSink

DEPTH = 256
"""Events that may wait for a destination; when the queue is full, the oldest is dropped."""
CLOSE_TIMEOUT = 10.0
"""Seconds that all destinations together have to accept the waiting events at the end of the run."""
GRACE = 5.0
"""Seconds that they have after that to end the operation that is under way; the service unit allows 30 s in all."""
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
    ) -> None:
        self.name = name
        self._open = opened
        self._retries = retries
        self._queue: Handoff[Event] = Handoff(DEPTH)
        self._fault: BaseException | None = None
        self._offered = self._written = self._lost = 0
        self._missing: int | None = None
        self._opened, self._closing, self._over = Flag(), Flag(), Flag()
        self._thread = Thread(target=self._work, name=f"events {name}", daemon=True)

    def start(self) -> None:
        """Open the destination; raises what it raises."""
        self._thread.start()
        self._opened.wait()
        if self._fault is not None:
            raise self._fault

    def offer(self, event: Event) -> None:
        """Queue an event; never waits."""
        self._offered += 1
        if not self._queue.put(event, newest_wins=True):
            self._lost += 1

    def end(self) -> None:
        """Accept no more events, and try at once to send the waiting ones."""
        self._queue.close()
        self._closing.set()

    def wait(self, deadline: float) -> None:
        """Wait for the thread's end, until the monotonic time `deadline`."""
        self._thread.join(max(0.0, deadline - monotonic()))

    def give_up(self) -> None:
        """Send no more events; the one under way is not interrupted."""
        self._over.set()

    def report(self) -> None:
        """Count what has not been delivered as dropped, and log it."""
        if self._thread.is_alive():
            log.warning("%s: did not end in time and was abandoned", self.name)
        self._missing = max(0, self._offered - self._written)
        if self._missing:
            log.warning("%s: %d events could not be delivered", self.name, self._missing)

    def health(self) -> SinkHealth:
        """State and counts of the destination."""
        fault = "" if self._fault is None else str(self._fault)
        state: SinkState = "working" if self._fault is None else "failed"
        if self._missing is not None:
            return SinkHealth(self.name, state, self._written, self._missing, 0, fault)
        return SinkHealth(self.name, state, self._written, self._queue.dropped + self._lost, len(self._queue), fault)

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
                if not isinstance(error, WriteError) or self._is_over_after(delay):
                    self._lost += 1
                    return
            else:
                if self._fault is not None:
                    log.warning("%s: accepts events again", self.name)
                self._fault = None
                self._written += 1
                return

    def _is_over_after(self, seconds: float) -> bool:
        """Wait before an event is sent again, at the end of the run not for long; True if it is not sent again."""
        if self._closing.is_set():
            return self._over.wait(min(seconds, self._retries.first_delay))
        self._closing.wait(seconds)
        return False


def close_all(deliveries: Sequence[Delivery], seconds: float = CLOSE_TIMEOUT, grace: float = GRACE) -> None:
    """Deliver the waiting events of all destinations at the same time, within `seconds`, then end them."""
    for delivery in deliveries:
        delivery.end()
    deadline = monotonic() + seconds
    for delivery in deliveries:
        delivery.wait(deadline)
    for delivery in deliveries:
        delivery.give_up()
    for delivery in deliveries:
        delivery.wait(deadline + grace)
        delivery.report()
