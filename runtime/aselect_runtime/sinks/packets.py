"""Compressed video packets (PyAV): a ring of a stream's latest packets, and files written from them undecoded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from aselect_runtime.errors import MissingDependencyError

try:
    import av
except ImportError as error:
    raise MissingDependencyError(
        "got no av (PyAV), expected it for recording on events; pip install 'aselect-runtime[record]'"
    ) from error

__all__ = ["PacketFile", "PacketRing", "Stored", "av"]

MOST_BYTES = 128_000_000
"""Maximum bytes of the packets that are kept of one stream; then the oldest are removed."""
RESTART = 1.0
"""Seconds by which the time of a packet falls if its encoder has started again, and not only reordered packets."""


@dataclass(frozen=True)
class Stored:
    """A copy of one packet."""

    data: bytes
    pts: int | None
    dts: int | None
    time_base: Fraction
    key: bool
    """Whether it is a keyframe, with which decoding can begin."""
    arrived: float
    """Time of arrival in seconds, on the clock of `PacketRing.since`."""

    @property
    def at(self) -> int | None:
        """When it is to be decoded, in units of `time_base`; None if that is not stated."""
        return self.dts if self.dts is not None else self.pts

    def restarts(self, last: Stored | None) -> bool:
        """Whether the clock of the encoder has begun again since the packet `last`."""
        if last is None or last.at is None or self.at is None:
            return False
        return float(self.at * self.time_base) < float(last.at * last.time_base) - RESTART

    @classmethod
    def of(cls, packet: av.Packet[Any], arrived: float) -> Stored:
        """Copy a demultiplexed packet."""
        base = packet.time_base or Fraction(1, 1000)
        return cls(bytes(packet), packet.pts, packet.dts, base, packet.is_keyframe, arrived)


class PacketRing:
    """The packets of the last `seconds`, and those before them back to the last keyframe. For one thread."""

    def __init__(self, seconds: float, most_bytes: int = MOST_BYTES) -> None:
        self._seconds = seconds
        self._most = most_bytes
        self._bytes = 0
        self._groups: deque[list[Stored]] = deque()
        """Groups of packets, each beginning with a keyframe."""

    def append(self, packet: Stored) -> None:
        """Add a packet; packets before the first keyframe are discarded."""
        if packet.key:
            self._groups.append([])
        if not self._groups:
            return
        self._groups[-1].append(packet)
        self._bytes += len(packet.data)
        old = packet.arrived - self._seconds
        while len(self._groups) > 1 and (self._groups[1][0].arrived <= old or self._bytes > self._most):
            self._forget()
        if self._bytes > self._most:  # a stream with very few keyframes
            self._forget()

    def since(self, moment: float) -> list[Stored]:
        """All packets from the last keyframe at or before `moment`; if there is none, all packets."""
        groups = list(self._groups)
        before = [place for place, group in enumerate(groups) if group[0].arrived <= moment]
        return [packet for group in groups[max(before, default=0) :] for packet in group]

    def _forget(self) -> None:
        self._bytes -= sum(len(packet.data) for packet in self._groups.popleft())


class PacketFile:
    """A Matroska file of packets, which can be played while it is written and after a kill.

    Raises OSError and FFmpegError, and ValueError for a codec that Matroska does not hold.
    """

    def __init__(self, path: Path, template: av.VideoStream) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened here, because FFmpeg reads some file names as addresses and crashes on others.
        self._file = path.open("wb", buffering=0)
        try:
            self._container: Any = av.open(self._file, "w", format="matroska")
            self._stream = self._container.add_stream_from_template(template)
        except BaseException:
            self._file.close()
            path.unlink(missing_ok=True)
            raise
        self._first: int | None = None
        self.last: Stored | None = None
        """The latest packet."""

    def write(self, stored: Stored) -> None:
        """Add a packet. Times are relative to the first packet; a packet out of order is left out."""
        at = stored.at
        if at is None or (self.last is not None and self.last.at is not None and at <= self.last.at):
            return
        shift = self._first = at if self._first is None else self._first
        packet = av.Packet(stored.data)
        packet.time_base = stored.time_base
        packet.dts = at - shift
        packet.pts = (at if stored.pts is None else stored.pts) - shift
        packet.is_keyframe = stored.key
        packet.stream = self._stream
        self._container.mux_one(packet)
        self.last = stored

    def close(self) -> None:
        """Complete the file."""
        try:
            self._container.close()
        finally:
            self._file.close()
