"""Recording a network stream: it is read a second time, without decoding, and its latest packets are kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from time import monotonic

from aselect_runtime.errors import AselectError
from aselect_runtime.sinks.packets import PacketFile, PacketRing, Stored, av
from aselect_runtime.sources.network import Endpoint

TIMEOUT = (10.0, 10.0)
"""Time limits in seconds: to connect, and between two packets."""
RETRY = (1.0, 30.0)
"""Seconds before the first attempt to reconnect, doubled each time up to the second value."""
JOIN = 5.0
"""Seconds that a thread has to end; one that is blocked in a read is abandoned."""
LONGEST = 600.0
"""Maximum seconds that are recorded after the start of an event."""

log = logging.getLogger(__name__)


@dataclass
class _Job:
    """One video; times are monotonic, in seconds."""

    path: Path
    since: float
    until: float = inf
    file: PacketFile | None = None
    parts: int = 0


class StreamRecorder:
    """Keeps the last `seconds` of a stream, and writes a file for each event, beginning with them.

    It reconnects until it is stopped. Errors are logged and never end the run. `begin` and `end` may be called from any
    thread.
    """

    def __init__(self, source: Endpoint, seconds: float) -> None:
        self._source = source
        self._name = source.name
        self._seconds = seconds
        self._jobs: dict[Path, _Job] = {}
        self._lock = Lock()
        self._over = Flag()
        self._lost = self._delivered = False
        self._thread = Thread(target=self._work, name=f"record {source.name}", daemon=True)

    def start(self) -> None:
        """Connect, in a separate thread."""
        self._thread.start()

    def stop(self) -> None:
        """Complete the files and end the thread."""
        self._over.set()
        self._thread.join(JOIN)

    def begin(self, path: Path, since: float) -> None:
        """Record to `path` from the monotonic time `since` on."""
        with self._lock:
            self._jobs[path] = _Job(path, since, monotonic() + LONGEST)

    def end(self, path: Path, until: float) -> None:
        """End the recording to `path` at the monotonic time `until`."""
        with self._lock:
            if path in self._jobs:
                self._jobs[path].until = min(self._jobs[path].until, until)

    def busy(self) -> set[Path]:
        """The files that are being written."""
        with self._lock:
            return set(self._jobs)

    def _work(self) -> None:
        delays = _delays()
        while not self._over.is_set():
            self._delivered = False
            try:
                self._follow()
                reason = "the stream ended"
            except (OSError, av.FFmpegError) as error:
                # FFmpeg's messages contain the address with its password.
                reason = error.strerror or type(error).__name__
            except AselectError as error:
                reason = str(error).removeprefix(f"{self._name}: ")
            except Exception as error:
                reason = type(error).__name__
            self._close_files()
            if not self._lost and not self._over.is_set():
                log.warning("%s: got no stream to record (%s); trying again", self._name, reason)
            self._lost = True
            if self._delivered:  # however the stream ended: only attempts that give nothing become rarer
                delays = _delays()
            self._over.wait(next(delays))
        self._close_files()

    def _follow(self) -> None:
        """Keep packets and write files until the stream ends or the run is over."""
        ring = PacketRing(self._seconds)
        last: Stored | None = None
        self._source.check()
        with av.open(self._source.uri, options=self._source.options(), timeout=TIMEOUT) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if self._over.is_set():
                    return
                if not packet.size:
                    continue
                self._lost, self._delivered = False, True
                stored = Stored.of(packet, monotonic())
                if stored.restarts(last) and not stored.key:
                    continue
                last = stored
                ring.append(stored)
                self._write(ring, stored, stream)

    def _write(self, ring: PacketRing, newest: Stored, stream: av.VideoStream) -> None:
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            try:
                if newest.arrived > job.until:
                    self._finish(job)
                elif job.file is None:
                    self._open(job, ring, stream)
                else:
                    self._append(job, newest, stream)
            except (OSError, av.FFmpegError) as error:
                reason = error.strerror or type(error).__name__
                log.warning("%s: could not write (%s), expected a writable path; free space", job.path, reason)
                self._finish(job)
            except ValueError:
                log.warning(
                    "%s: got %s video, expected a codec that Matroska holds, such as H.264; the event is not recorded",
                    *(self._name, stream.codec_context.name),
                )
                self._finish(job)

    def _open(self, job: _Job, ring: PacketRing, stream: av.VideoStream) -> None:
        for packet in ring.since(job.since):
            self._append(job, packet, stream)

    def _append(self, job: _Job, packet: Stored, stream: av.VideoStream) -> None:
        """Write a packet; the next part begins with the first one, and where the camera's clock begins again."""
        if job.file is not None and packet.restarts(job.file.last):
            self._close(job)
        if job.file is None:
            job.parts += 1
            more = f"-part{job.parts}" if job.parts > 1 else ""
            job.file = PacketFile(job.path.with_name(f"{job.path.stem}{more}{job.path.suffix}"), stream)
        job.file.write(packet)

    def _finish(self, job: _Job) -> None:
        with self._lock:
            self._jobs.pop(job.path, None)
        self._close(job)

    def _close_files(self) -> None:
        """Complete all open files, because the connection ended; after a reconnection the next part begins."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            self._close(job)

    def _close(self, job: _Job) -> None:
        file, job.file = job.file, None
        if file is not None:
            try:
                file.close()
            except (OSError, av.FFmpegError) as error:
                log.warning("%s: could not complete it (%s)", job.path, error.strerror or type(error).__name__)


def _delays() -> Iterator[float]:
    delay, longest = RETRY
    while True:
        yield delay
        delay = min(2 * delay, longest)
