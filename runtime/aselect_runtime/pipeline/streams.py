"""The capture threads of a run: one for all videos, one after the other, and one for each live source."""

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
"""Seconds after which a waiting thread checks whether the run is over."""
STUCK_THREADS = 3
"""Reads of one camera that may hang permanently before it is given up: each occupies a thread."""


@dataclass(frozen=True)
class Patience:
    """When a live source counts as lost, and the delays between reconnections. Seconds, except `frozen`."""

    connect: float = 25.0
    """Time limit for the first frame; longer than the time-outs in FFmpeg, whose messages are more precise."""
    grab: float = 12.0
    """Time limit between two frames."""
    first_delay: float = 0.5
    longest_delay: float = 30.0
    """Delay before the next connection: doubled each time up to the longest, and reduced by up to half at random, so
    that many devices do not reconnect to one camera at the same time."""
    frozen: int = 300
    """Identical frames in a row after which the camera counts as hung."""

    def delays(self) -> Iterator[float]:
        """Yield the seconds to wait before the first, second, … attempt."""
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
    """Monotonic time in seconds at which the model input was complete."""


class Intake:
    """Resizes the frames of one lane to model inputs and queues them for the session."""

    def __init__(self, lane: int, manifest: Manifest, feed: Feed[Ready], watch: Stopwatch, monitor: Monitor) -> None:
        self._lane = lane
        self._manifest = manifest
        self._feed = feed
        self._watch = watch
        self._monitor = monitor
        self._ring = FrameRing(BUFFERS + manifest.input.shape[0])

    def resize(self, captured: Captured) -> tuple[Frame, float]:
        """The model input of a frame, and the milliseconds that resizing took."""
        height, width, channels = self._manifest.input.shape[1:]
        with lap() as spent:
            buffer = self._ring.take((height, width, channels))
            pixels = resize(captured.frame, (height, width), self._manifest.resize, buffer)
        return pixels, spent.ms

    def put(self, stream: int, captured: Captured, pixels: Frame, capture_ms: float, resize_ms: float) -> bool:
        """Queue a frame for the session; False if the run is over."""
        self._watch.add("capture", capture_ms)
        self._watch.add("resize", resize_ms)
        self._monitor.delivered(stream)
        return self._feed.put(self._lane, Ready(stream, captured, pixels, capture_ms, resize_ms, monotonic()))


class Videos:
    """Inputs that deliver every frame, one after the other, each with the prefix of its labels.

    `lost` is called for each that ends with an error.
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
        """Read one video to its end; False if the run is over."""
        with source:
            frames = iter(source)
            while not self._over():
                with self._heartbeat.busy(f"capture {source.info.name}"), lap() as spent:
                    captured = next(frames, None)
                if captured is None:
                    return True
                if folder:
                    captured = replace(captured, label=f"{folder}{captured.label}")
                pixels, resize_ms = self._intake.resize(captured)
                if not self._intake.put(stream, captured, pixels, spent.ms, resize_ms):
                    return False
        return False


class Live:
    """One live source, reconnected whenever the connection is lost, until the source ends or the run is over.

    `lost` is called for every failure. Raises InputError if more than STUCK_THREADS reads hang permanently.
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
        """The image is still the same after a reconnection: the scene is static, the camera does not hang."""

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
        """Number of frames that were replaced by newer ones before they were resized."""
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
                f"{grab.name}: got the same image {self._same} times, expected some change; check the camera"
            )

    def _give_up_on_hung_reads(self, error: AselectError) -> None:
        for grab in [grab for grab in self._grabs if not grab.alive]:
            self._dropped += grab.dropped
            self._grabs.remove(grab)
        if len(self._grabs) > STUCK_THREADS:
            raise InputError(f"{error}; {len(self._grabs)} reads hang permanently, restart the program") from error

    def _wait(self, seconds: float) -> None:
        end = monotonic() + seconds
        pause = Event()
        while not self._over() and (left := end - monotonic()) > 0:
            pause.wait(min(left, POLL))
