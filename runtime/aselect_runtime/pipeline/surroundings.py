"""What runs around the pipeline's loop: the results thread, the time limit, the watchdog."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread, Timer

import cv2

from aselect_runtime.health import SinkHealth
from aselect_runtime.pipeline.answers import Answer, Answering
from aselect_runtime.pipeline.events import EventFlow
from aselect_runtime.pipeline.handoff import Handoff
from aselect_runtime.pipeline.heartbeat import Heartbeat, every
from aselect_runtime.pipeline.monitor import Monitor
from aselect_runtime.pipeline.notify import sd_notify, watchdog_seconds
from aselect_runtime.pipeline.outlets import DEPTH, Outlet

ESSENTIAL = frozenset({"infer", "results"})
"""Essential stages: while one of these is stalled, the service manager gets no WATCHDOG=1."""
CHECK_INTERVAL = 2.0
"""Seconds between two checks for stalls and of the board's temperatures."""

log = logging.getLogger(__name__)


@contextmanager
def results_thread(answer: Answering, heartbeat: Heartbeat) -> Iterator[Callable[[Answer], bool]]:
    """Run the results thread; yields the function that queues an answer, which returns False after the thread's end.

    An error of the thread is raised at the end.
    """
    answers: Handoff[Answer] = Handoff(DEPTH)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for item in answers:
                with heartbeat.busy("results"):
                    if not answer(item):
                        break
        except BaseException as error:
            failures.append(error)
        finally:
            answers.abandon()

    thread = Thread(target=work, name="results", daemon=True)
    thread.start()
    try:
        yield answers.put
    finally:
        answers.close()
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def opencv_in_one_thread() -> Iterator[None]:
    """Use one OpenCV thread inside the block: the stages use all cores, and OpenCV's threads would only add waiting."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextmanager
def time_limit(seconds: float | None, stop: Event) -> Iterator[Event]:
    """Set `stop` after `seconds`; yields an Event that is set then, and not if somebody else sets `stop` earlier."""
    expired = Event()
    if seconds is None:
        yield expired
        return

    def expire() -> None:
        if not stop.is_set():
            expired.set()
        stop.set()

    timer = Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


@contextmanager
def watching(
    monitor: Monitor,
    heartbeat: Heartbeat,
    outlets: Sequence[Outlet],
    flow: EventFlow | None,
    sinks: Callable[[], tuple[SinkHealth, ...]],
) -> Iterator[None]:
    """Check for stalls and silent cameras, read the board's state, and send WATCHDOG=1 to the service manager."""
    limit = watchdog_seconds()

    def check() -> None:
        monitor.read_board()
        if flow is not None:
            flow.check_silence()
        for stage in heartbeat.newly_stuck():
            log.warning("%s: stalled in one operation for more than %.0f s", stage, heartbeat.limit)
        if health := monitor.silent_health(sinks):
            for outlet in outlets:
                outlet.update_health(health)
        if ESSENTIAL.isdisjoint(heartbeat.stuck()):
            sd_notify("WATCHDOG=1")

    sd_notify("READY=1")
    with every(min(CHECK_INTERVAL, limit / 2) if limit else CHECK_INTERVAL, check, "watchdog"):
        yield
    sd_notify("STOPPING=1")
