"""Which inputs run in parallel, and their capture threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from time import monotonic
from typing import NoReturn

from aselect_runtime.errors import AselectError, IncompleteError, InputError
from aselect_runtime.pipeline.feed import Feed
from aselect_runtime.pipeline.heartbeat import Heartbeat
from aselect_runtime.pipeline.monitor import Monitor
from aselect_runtime.pipeline.streams import Intake, Live, Patience, Ready, Videos
from aselect_runtime.pipeline.timing import RunSummary, Stopwatch
from aselect_runtime.records import Manifest
from aselect_runtime.sources.source import Source

JOIN = 5.0
"""Seconds that all capture threads have to end; one that is blocked in a read is abandoned."""

log = logging.getLogger(__name__)


class Lanes:
    """A lane for each live source, and one lane for all videos, which run one after the other.

    `connects` creates a new source for each input: a source whose connection was lost is not used again. `folders` are
    the prefixes of the labels of each input's frames.
    """

    def __init__(
        self, sources: Sequence[Source], connects: Sequence[Callable[[], Source]], folders: Sequence[str]
    ) -> None:
        self._sources = sources
        self._folders = folders
        self._connects = connects
        videos = [number for number, source in enumerate(sources) if not source.info.live]
        self.streams = [[n] for n, source in enumerate(sources) if source.info.live] + ([videos] if videos else [])
        self.live = [sources[lane[0]].info.live for lane in self.streams]
        self._losses: list[AselectError] = []

    @contextmanager
    def capturing(
        self,
        feed: Feed[Ready],
        manifest: Manifest,
        watch: Stopwatch,
        monitor: Monitor,
        heartbeat: Heartbeat,
        stop: Event,
        patience: Patience,
    ) -> Iterator[None]:
        """Run the capture threads inside the block; an error that ends the run is passed to the feed."""
        done = Event()

        def over() -> bool:
            return done.is_set() or stop.is_set()

        def lost(stream: int, error: AselectError) -> None:
            news = monitor.lost(stream, str(error))
            if monitor.all_failed:
                feed.fail(error)
            elif news:
                log.warning("%s; trying again", error)

        def work(lane: int) -> Callable[[], None]:
            intake = Intake(lane, manifest, feed, watch, monitor)
            streams = self.streams[lane]
            if not self.live[lane]:
                videos = [(n, self._sources[n], self._folders[n]) for n in streams]
                return Videos(videos, intake, monitor, heartbeat, partial(self._lost, monitor), over)
            live = Live(streams[0], self._connects[streams[0]], intake, patience, lost, over)
            monitor.dropping(streams[0], lambda: live.dropped() + feed.dropped(lane))
            return live

        def run(lane: int, act: Callable[[], None]) -> None:
            try:
                act()
            except BaseException as error:
                self._ended_by(error, feed, monitor)
            finally:
                for stream in self.streams[lane]:
                    monitor.ended(stream)
                feed.close(lane)

        works = [work(lane) for lane in range(len(self.streams))]
        threads = [
            Thread(target=run, args=(lane, act), name=f"capture {lane}", daemon=True) for lane, act in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            feed.abandon()
            deadline = monotonic() + JOIN
            for thread in threads:
                thread.join(max(0.0, deadline - monotonic()))

    def _lost(self, monitor: Monitor, stream: int, error: AselectError) -> None:
        """Record that a video ended with an error: its results are kept, and the next input follows."""
        monitor.lost(stream, str(error))
        if len(self._sources) > 1:
            log.warning("%s; continuing without it", error)
        self._losses.append(error)

    def _ended_by(self, error: BaseException, feed: Feed[Ready], monitor: Monitor) -> None:
        if isinstance(error, AselectError) and monitor.began:
            log.warning("%s; continuing without it", error)
            self._losses.append(error)
        else:
            feed.fail(error)

    def raise_nothing(self, names: Sequence[str]) -> NoReturn:
        """Raise the error of a run without any frame: the first input's error, if there is one."""
        if self._losses:
            raise self._losses[0]
        raise InputError(f"{', '.join(names)}: got no frame before the end, expected at least one; check the input")

    def raise_losses(self, summary: RunSummary) -> None:
        """Raise IncompleteError if an input ended with an error or was given up while the run continued."""
        if self._losses:
            others = len(self._losses) - 1
            more = f" (and {others} more input{'s' if others > 1 else ''})" if others else ""
            written = {sink.name: sink.written for sink in summary.sinks}
            outputs = ", ".join(f"{name} ({written[name]} frames)" for name in summary.outputs)
            kept = f"; kept: {outputs}" if outputs else ""
            raise IncompleteError(f"{self._losses[0]}{more}{kept}", summary) from self._losses[0]
