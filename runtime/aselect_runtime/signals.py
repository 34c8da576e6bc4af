"""Ending a run in order on Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an Event that the first SIGINT or SIGTERM sets; a second one acts as usual. Main thread only."""
    stop = Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()
        restore()

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()
