"""A part of a video file, copied without decoding."""

from __future__ import annotations

from pathlib import Path

from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.redaction import redact
from aselect_runtime.sinks.packets import PacketFile, Stored, av
from aselect_runtime.sources.network import Endpoint

TIMEOUT = (10.0, 10.0)
"""Time limits in seconds for opening and for reading a file on the network."""


def record_part(uri: str, path: Path, start: float, end: float) -> None:
    """Copy the video from the keyframe before `start` to `end`, in seconds from its beginning.

    Raises InputError if the video cannot be read, WriteError if the copy cannot be written.
    """
    options: dict[str, str] = {}
    if "://" in uri:
        there = Endpoint.of(uri)
        there.check()
        uri, options = there.uri, there.options()
    try:
        container = av.open(uri, options=options, timeout=TIMEOUT)
    except (OSError, av.FFmpegError) as error:
        raise InputError(f"{redact(uri)}: unreadable ({_reason(error)}), expected a video; check the input") from None
    with container:
        stream = container.streams.video[0]
        first = (stream.start_time or 0) * (stream.time_base or 0)
        container.seek(max(0, round((float(first) + start) * 1_000_000)))
        try:
            _copy(container, stream, path, float(first) + end)
        except (OSError, av.FFmpegError) as error:
            raise WriteError(
                f"{path}: could not write ({_reason(error)}), expected a writable path; free space or choose another"
            ) from None


def _copy(container: av.container.InputContainer, stream: av.VideoStream, path: Path, end: float) -> None:
    file = PacketFile(path, stream)
    try:
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                if packet.dts is not None and float(packet.dts * packet.time_base) > end:
                    break
                file.write(Stored.of(packet, 0.0))
    finally:
        file.close()


def _reason(error: Exception) -> str:
    """The reason without the address: FFmpeg's messages contain it with its password."""
    return getattr(error, "strerror", None) or type(error).__name__
