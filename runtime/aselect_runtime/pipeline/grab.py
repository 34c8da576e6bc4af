"""One connection to a live source: a thread that reads without pause, and a slot that holds the newest frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread

from aselect_runtime.errors import InputError
from aselect_runtime.pipeline.handoff import Handoff
from aselect_runtime.pipeline.timing import lap
from aselect_runtime.results import Captured
from aselect_runtime.sources.deferred import Arrived, Deferring
from aselect_runtime.sources.source import Source

FAREWELL = 1.0
"""Seconds: a device must be closed before it can be opened again, and an RTSP server wants to hear a TEARDOWN."""


class Grab:
    """Connects at once. A read that hangs stays in its thread: whoever waits for a frame abandons it from outside."""

    def __init__(self, connect: Callable[[], Source]) -> None:
        self._source = connect()
        self._slot: Handoff[tuple[Captured | Arrived, float]] = Handoff(1)
        self._thread = Thread(target=self._work, name="grab", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the machine has no thread left: this camera is lost, and tried again later
            raise InputError(
                f"{self.name}: got no thread to read it in ({error}), expected one; other programs may use too many"
            ) from error

    @property
    def name(self) -> str:
        """Of the source, printable."""
        return self._source.info.name

    @property
    def dropped(self) -> int:
        """Frames that gave way to a newer one."""
        return self._slot.dropped

    @property
    def alive(self) -> bool:
        """Whether the thread is still there, reading or stuck."""
        return self._thread.is_alive()

    def take(self, timeout: float) -> tuple[Captured, float] | None:
        """The newest frame and the milliseconds its read took; None at the end.

        What came before it was neither decoded from JPEG nor converted, where the source can leave that until now.
        Raises TimeoutError (also for a frame that turns out too damaged), or what the source raised.
        """
        taken = self._slot.take(timeout)
        if taken is None:
            return None
        arrived, read_ms = taken
        with lap() as spent:
            captured = arrived.captured() if isinstance(arrived, Arrived) else arrived
        if captured is None:
            raise TimeoutError
        return captured, read_ms + spent.ms

    def abandon(self) -> None:
        """Let the thread close what it has open, and end; one that hangs in a read is left alone until that returns."""
        self._slot.abandon()
        self._thread.join(FAREWELL)

    def _work(self) -> None:
        try:
            with self._source as source:
                frames: Iterator[Captured | Arrived] = (
                    source.arrivals() if isinstance(source, Deferring) else iter(source)
                )
                while True:
                    with lap() as spent:
                        captured = next(frames, None)
                    if captured is None or not self._slot.put((captured, spent.ms), newest_wins=True):
                        break
        except BaseException as error:
            self._slot.close(error)
        else:
            self._slot.close()
