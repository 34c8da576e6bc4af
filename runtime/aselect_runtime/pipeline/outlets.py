"""The outputs of a run: each has its own queue and thread, so that none delays inference or another output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from aselect_runtime.health import Health, SinkHealth, SinkState
from aselect_runtime.pipeline.handoff import Handoff
from aselect_runtime.pipeline.heartbeat import Heartbeat
from aselect_runtime.pipeline.output_plan import OutputPlan
from aselect_runtime.pipeline.timing import Stopwatch, lap
from aselect_runtime.redaction import redact
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import STDOUT, Sent, Sink, SinkClosed, Write, writes_files

DEPTH = 4
"""Results that may wait for a sink: enough to absorb jitter, few enough to limit memory and delay."""
CLOSE_TIMEOUT = 5.0
"""Seconds that all outputs on the network have to close at the end of the run."""
POLL = 0.2
"""Seconds between two checks whether the run is over."""

log = logging.getLogger(__name__)


class _UndoneError(Exception):
    """Raised inside a sink that got no result, or whose run has failed, so that it removes its unfinished output."""


class Outlet:
    """One output. A sink that fails is closed, logged and counted, and the run continues without it.

    An input that delivers every frame waits for a sink that writes files or is an object; in all other cases results
    are dropped if the sink is too slow, the oldest first.
    """

    def __init__(self, plan: OutputPlan, opened: Callable[[], Sink], watch: Stopwatch, heartbeat: Heartbeat) -> None:
        self.name = redact(plan.uri)
        self.is_stdout = plan.uri == STDOUT
        self.is_file = plan.sink is not None or writes_files(plan.uri)
        self.fault: BaseException | None = None
        self._plan = plan
        self._open = opened
        self._watch = watch
        self._heartbeat = heartbeat
        self._stage = f"output {self.name}"
        self._queue: Handoff[Result] = Handoff(DEPTH)
        self._written = self._missed = 0
        self._write: Write | None = None
        self._released = False
        self._opened, self._done = Event(), Event()
        self._thread = Thread(target=self._work, name=self._stage, daemon=True)

    def start(self) -> None:
        """Open the sink; raises what it raises."""
        self._thread.start()
        self._opened.wait()
        if self.fault is not None:
            raise self.fault

    @property
    def ended(self) -> bool:
        """Whether it accepts no more results, because it failed or was closed (for example the display window)."""
        return not self._thread.is_alive()

    def update_health(self, health: Health) -> None:
        """Pass the run's health to the sink, if it has a method `tell`."""
        update = getattr(self._write, "tell", None)
        if update is not None and not self.ended:
            update(health)

    def offer(self, result: Result) -> None:
        """Queue a result, if it comes from one of the output's inputs."""
        if result.stream not in self._plan.streams:
            return
        weak = result.captured.source.live or not self.is_file
        if not self._queue.put(result, newest_wins=weak):
            self._missed += 1

    def end(self, *, undo: bool = False) -> None:
        """Accept no more results and complete the output; with `undo` remove it if it has no result."""
        self._queue.close(_UndoneError() if undo else None)

    def wait(self, deadline: float) -> None:
        """Wait until the output is complete, for a file without limit, otherwise until `deadline` (monotonic)."""
        self._done.wait(None if self.is_file else max(0.0, deadline - monotonic()))
        if not self._released:
            self._thread.join(None if self.is_file else max(0.0, deadline - monotonic()))
        if self._thread.is_alive():
            log.warning("%s: did not end within %.0f s and was abandoned", self.name, CLOSE_TIMEOUT)

    def release(self) -> None:
        """Stop waiting for the output, and let nothing else wait for it."""
        self._released = True
        self._queue.abandon()
        self._done.set()

    def health(self) -> SinkHealth:
        """State and counts of the output."""
        sent = self._sent()
        state: SinkState = "working"
        if self.fault is not None or sent.fault:
            state = "failed"
        elif self._stage in self._heartbeat.stuck():
            state = "stalled"
        fault = sent.fault if self.fault is None else redact(str(self.fault))
        dropped = self._queue.dropped + self._missed + sent.dropped
        return SinkHealth(self.name, state, sent.written, dropped, len(self._queue), fault)

    def _sent(self) -> Sent:
        sent: Callable[[], Sent] | None = getattr(self._write, "sent", None)
        return Sent(self._written, 0, "") if sent is None else sent()

    def _work(self) -> None:
        try:
            with self._open() as write:
                self._write = write
                self._opened.set()
                self._write_all(write)
        except (SinkClosed, _UndoneError):
            pass
        except BaseException as error:
            self.fault = error
        finally:
            self._queue.abandon()
            self._opened.set()
            self._done.set()

    def _write_all(self, write: Write) -> None:
        try:
            for result in self._queue:
                with self._heartbeat.busy(self._stage), lap() as spent:
                    write(result)
                self._watch.add("output", spent.ms)
                self._written += 1
        except _UndoneError:
            if not self._written:
                raise
        if not self._written:  # no frame came: the output of an earlier run must be kept
            raise _UndoneError


@contextmanager
def releasing_stdout(outlets: Sequence[Outlet], stop: Event) -> Iterator[None]:
    """Once `stop` is set, the reader of the standard output has CLOSE_TIMEOUT seconds; it may have stopped reading."""
    done = Event()

    def work() -> None:
        while not stop.wait(POLL):
            if done.is_set():
                return
        if not done.wait(CLOSE_TIMEOUT):
            for outlet in outlets:
                if outlet.is_stdout:
                    outlet.release()

    if any(outlet.is_stdout for outlet in outlets):
        Thread(target=work, name="stdout", daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def open_outlets(outlets: Sequence[Outlet]) -> Iterator[None]:
    """Open all outputs; complete them after the block. If the block raises, outputs without a result are removed.

    Raises what an output raises when it is opened, and at the end the error of a file, or of any output if all failed.
    """
    opened: list[Outlet] = []
    try:
        for outlet in outlets:
            opened.append(outlet)
            outlet.start()
        yield
    except BaseException:
        _close(opened, undo=True)
        raise
    _close(opened)
    faults = [(outlet.is_file, outlet.fault) for outlet in outlets if outlet.fault is not None]
    if len(faults) < len(outlets):
        faults = [(is_file, fault) for is_file, fault in faults if is_file]
    for _, fault in faults[1:]:
        log.warning("%s", fault)
    if faults:
        raise faults[0][1]


def _close(outlets: Sequence[Outlet], *, undo: bool = False) -> None:
    for outlet in outlets:
        outlet.end(undo=undo)
    deadline = monotonic() + CLOSE_TIMEOUT
    for outlet in outlets:
        outlet.wait(deadline)
