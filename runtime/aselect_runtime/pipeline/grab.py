"""One connection to a live source: a thread that reads continuously, and a slot for the newest frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread

from aselect_runtime.errors import InputError
from aselect_runtime.pipeline.handoff import Handoff
from aselect_runtime.pipeline.timing import lap
from aselect_runtime.results import Captured
from aselect_runtime.sources.deferred import Arrived, Deferring
from aselect_runtime.sources.source import Source

CLOSE_TIMEOUT = 1.0
"""Seconds to wait for the thread: a device must be closed before it is reopened, and RTSP ends with a TEARDOWN."""


class Grab:
    """Connects at once. A read that hangs blocks only its thread: the caller abandons the connection after a time."""

    def __init__(self, connect: Callable[[], Source]) -> None:
        self._source = connect()
        self._slot: Handoff[tuple[Captured | Arrived, float]] = Handoff(1)
        self._thread = Thread(target=self._work, name="grab", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread available: this camera counts as lost and is tried again later
            raise InputError(
                f"{self.name}: got no new thread to read it ({error}), expected one; close other programs"
            ) from error

    @property
    def name(self) -> str:
        """Printable name of the source."""
        return self._source.info.name

    @property
    def dropped(self) -> int:
        """Number of frames that were replaced by a newer one."""
        return self._slot.dropped

    @property
    def alive(self) -> bool:
        """Whether the thread still exists, reading or blocked."""
        return self._thread.is_alive()

    def take(self, timeout: float) -> tuple[Captured, float] | None:
        """The newest frame and the milliseconds that reading it took; None at the end.

        Earlier frames were neither decoded from JPEG nor converted, if the source supports that. Raises TimeoutError
        after `timeout` seconds or for a frame that is too damaged, or what the source raised.
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
        """End the thread, which closes the source; a thread that is blocked in a read ends when the read returns."""
        self._slot.abandon()
        self._thread.join(CLOSE_TIMEOUT)

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
