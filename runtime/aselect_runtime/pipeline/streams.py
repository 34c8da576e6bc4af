"""The inputs of a run, each lane in a thread of its own: videos one after the other, every live source by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event
from time import monotonic

import numpy as np

from aselect_runtime.errors import AselectError, InputError
from aselect_runtime.frames import Frame, resize
from aselect_runtime.pipeline.feed import Feed
from aselect_runtime.pipeline.grab import Grab
from aselect_runtime.pipeline.heartbeat import Heartbeat
from aselect_runtime.pipeline.monitor import Monitor
from aselect_runtime.pipeline.timing import Stopwatch, lap
from aselect_runtime.records import Manifest
from aselect_runtime.results import Captured
from aselect_runtime.rings import FrameRing
from aselect_runtime.sources.source import Source

BUFFERS = 16
POLL = 0.1
"""Seconds after which a waiting thread looks whether the run is over."""
STUCK_THREADS = 3
"""Reads of one camera that may hang for good before it is given up: each keeps a thread."""


@dataclass(frozen=True)
class Patience:
    """When a live source counts as lost, and how it is tried again. Seconds, except `frozen`."""

    connect: float = 25.0
    """Until the first frame; longer than the time-outs inside FFmpeg, whose messages are better."""
    grab: float = 12.0
    """Between two frames."""
    first_delay: float = 0.5
    longest_delay: float = 30.0
    """Before another connection: doubled each time up to the longest, and up to half of it taken off at random, so
    that many devices do not come back to one camera at once."""
    frozen: int = 300
    """Frames without any change, after which the camera is taken for hung."""

    def delays(self) -> Iterator[float]:
        """How long to wait before the first, second, … attempt."""
        delay = self.first_delay
        while True:
            yield delay * random.uniform(0.5, 1)
            delay = min(2 * delay, self.longest_delay)


@dataclass(frozen=True)
class Ready:
    """A frame with its model input, uint8 [h, w, 3]."""

    stream: int
    captured: Captured
    pixels: Frame
    capture_ms: float
    resize_ms: float
    t_ready: float
    """Monotonic."""


class Intake:
    """Where the frames of one lane become model inputs and go to the session."""

    def __init__(self, lane: int, manifest: Manifest, feed: Feed[Ready], watch: Stopwatch, monitor: Monitor) -> None:
        self._lane = lane
        self._manifest = manifest
        self._feed = feed
        self._watch = watch
        self._monitor = monitor
        self._ring = FrameRing(BUFFERS + manifest.input.shape[0])

    def resize(self, captured: Captured) -> tuple[Frame, float]:
        """The model input of a frame, and how many milliseconds it took."""
        height, width, channels = self._manifest.input.shape[1:]
        with lap() as spent:
            buffer = self._ring.take((height, width, channels))
            pixels = resize(captured.frame, (height, width), self._manifest.resize, buffer)
        return pixels, spent.ms

    def put(self, stream: int, captured: Captured, pixels: Frame, capture_ms: float, resize_ms: float) -> bool:
        """Hand a frame to the session; False when the run is over."""
        self._watch.add("capture", capture_ms)
        self._watch.add("resize", resize_ms)
        self._monitor.delivered(stream)
        return self._feed.put(self._lane, Ready(stream, captured, pixels, capture_ms, resize_ms, monotonic()))


class Videos:
    """Inputs that deliver every frame, one after the other, each with the folder that goes before its labels.

    `lost` hears of each that ends badly.
    """

    def __init__(
        self,
        videos: Sequence[tuple[int, Source, str]],
        intake: Intake,
        monitor: Monitor,
        heartbeat: Heartbeat,
        lost: Callable[[int, AselectError], None],
        over: Callable[[], bool],
    ) -> None:
        self._videos = videos
        self._intake = intake
        self._monitor = monitor
        self._heartbeat = heartbeat
        self._lost = lost
        self._over = over

    def __call__(self) -> None:
        for stream, source, folder in self._videos:
            if self._over():
                return
            try:
                if not self._play(stream, source, folder):
                    return
            except AselectError as error:
                self._lost(stream, error)
            finally:
                self._monitor.skipped(stream, getattr(source, "skipped", 0))
            self._monitor.ended(stream)

    def _play(self, stream: int, source: Source, folder: str) -> bool:
        """False when the run is over."""
        with source:
            frames = iter(source)
            while not self._over():
                with self._heartbeat.busy(f"capture {source.info.name}"), lap() as spent:
                    captured = next(frames, None)
                if captured is None:
                    return True
                captured = replace(captured, label=f"{folder}{captured.label}")
                pixels, resize_ms = self._intake.resize(captured)
                if not self._intake.put(stream, captured, pixels, spent.ms, resize_ms):
                    return False
        return False


class Live:
    """One live source, connected again whenever it is lost, until it ends by itself or the run is over.

    `lost` hears of every failure. Raises InputError where reads have hung for good too often.
    """

    def __init__(
        self,
        stream: int,
        connect: Callable[[], Source],
        intake: Intake,
        patience: Patience,
        lost: Callable[[int, AselectError], None],
        over: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._connect = connect
        self._intake = intake
        self._patience = patience
        self._lost = lost
        self._over = over
        self._delays = patience.delays()
        self._index = 0
        self._grabs: list[Grab] = []
        self._dropped = 0
        self._last: Frame | None = None
        self._same = 0
        self._still = False
        """The image has not changed since before the last connection: a still scene, and not a hung camera."""

    def __call__(self) -> None:
        while not self._over():
            try:
                self._follow_one()
                return
            except AselectError as error:
                self._lost(self._stream, error)
                self._give_up_on_hung_reads(error)
            self._wait(next(self._delays))

    def dropped(self) -> int:
        """How many frames gave way to newer ones before they were resized."""
        return self._dropped + sum(grab.dropped for grab in self._grabs)

    def _follow_one(self) -> None:
        """Connect, and pass the newest frames on until the source ends; raises AselectError when it is lost."""
        grab = Grab(self._connect)
        self._grabs.append(grab)
        try:
            self._follow(grab)
        finally:
            grab.abandon()

    def _follow(self, grab: Grab) -> None:
        """Pass the newest frames on until the source ends; raises AselectError when it is lost."""
        heard = monotonic()
        patience = self._patience.connect
        while not self._over():
            try:
                grabbed = grab.take(POLL)
            except TimeoutError:
                if monotonic() - heard > patience:
                    raise InputError(
                        f"{grab.name}: got no frame for {patience:.0f} s, expected a stream; check the camera and the "
                        "network"
                    ) from None
                continue
            if grabbed is None:
                return
            heard, patience = monotonic(), self._patience.grab
            captured, capture_ms = grabbed
            pixels, resize_ms = self._intake.resize(captured)
            self._look_for_change(grab, pixels)
            label = f"{captured.label.rpartition('-')[0]}-{self._index:06d}"
            numbered = replace(captured, index=self._index, label=label)
            self._index += 1
            if not self._intake.put(self._stream, numbered, pixels, capture_ms, resize_ms):
                return

    def _look_for_change(self, grab: Grab, pixels: Frame) -> None:
        """Raise InputError for an image that has not changed for too long: noise changes that of a real camera."""
        if self._last is None or not np.array_equal(self._last, pixels):
            self._same, self._still = 0, False
            self._delays = self._patience.delays()
        else:
            self._same += 1
        self._last = pixels
        if self._same >= self._patience.frozen and not self._still:
            self._still = True
            raise InputError(
                f"{grab.name}: got the same image {self._same} times, expected some change; the camera may hang"
            )

    def _give_up_on_hung_reads(self, error: AselectError) -> None:
        for grab in [grab for grab in self._grabs if not grab.alive]:
            self._dropped += grab.dropped
            self._grabs.remove(grab)
        if len(self._grabs) > STUCK_THREADS:
            raise InputError(f"{error}; {len(self._grabs)} reads hang for good, restart the program") from error

    def _wait(self, seconds: float) -> None:
        end = monotonic() + seconds
        pause = Event()
        while not self._over() and (left := end - monotonic()) > 0:
            pause.wait(min(left, POLL))
