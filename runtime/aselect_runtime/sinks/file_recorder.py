"""A part of a video file, copied without decoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.files import WRITE_FAULTS
from aselect_runtime.media import library_path
from aselect_runtime.redaction import redact
from aselect_runtime.sinks.packets import PacketFile, Stored, av
from aselect_runtime.sources.network import Endpoint

if TYPE_CHECKING:
    from av.container import InputContainer

TIMEOUT = (10.0, 10.0)
"""Time limits in seconds for opening and for reading a file on the network."""


def record_part(uri: str, path: Path, start: float, end: float) -> None:
    """Copy the video from the keyframe before `start` to `end`, in seconds from its beginning.

    Raises InputError if the video cannot be read or copied, WriteError if the copy cannot be written.
    """
    with _open(uri) as container:
        _copy(container, redact(uri), path, start, end)


def check_recordable(uri: str) -> None:
    """Copy the first packet of a video file; raises InputError if that is impossible, as it will be in an event.

    One that cannot be opened passes: the run says what is wrong with it, and goes on with the next input.
    """
    try:
        container = _open(uri)
    except InputError:
        return
    with container, TemporaryDirectory(prefix="aselect-") as folder, suppress(WriteError):
        try:
            _copy(container, uri, Path(folder, "trial.mkv"), 0.0, 0.0)
        except InputError as error:
            raise InputError(str(error), parameter="record_events") from None


def _open(uri: str) -> InputContainer:
    options: dict[str, str] = {}
    with library_path(Path(uri)) as given:
        if "://" in uri:
            there = Endpoint.of(uri)
            there.check()
            given, options = there.uri, there.options()
        try:
            container = av.open(given, options=options, timeout=TIMEOUT)
        except (OSError, av.FFmpegError) as error:
            raise InputError(
                f"{redact(uri)}: unreadable ({_reason(error)}), expected a video; check the input"
            ) from None
    if container.streams.video:
        return container
    container.close()
    raise InputError(f"{redact(uri)}: got no video stream, expected a video; check the input")


def _copy(container: InputContainer, name: str, path: Path, start: float, end: float) -> None:
    stream = container.streams.video[0]
    packets = _packets(container, name, start, end)
    file: PacketFile | None = None
    try:
        file = PacketFile(path, stream)
        try:
            for packet in packets:
                file.write(packet)
        finally:
            file.close()
    except (OSError, av.FFmpegError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in WRITE_FAULTS:
            raise WriteError(
                f"{path}: could not write ({_reason(error)}), expected a writable path; free space or choose another"
            ) from None
        reason = _reason(error) if isinstance(error, av.FFmpegError) else "Matroska does not hold it"
        raise _refused(name, f"{stream.codec_context.name} video ({reason})") from None
    finally:
        if file is not None and file.last is None:
            path.unlink(missing_ok=True)
    if file.last is None:
        raise _refused(name, "no packet that states its time")


def _packets(container: InputContainer, name: str, start: float, end: float) -> Iterator[Stored]:
    """The packets that have times, from the keyframe before `start` to `end`; raises InputError."""
    stream = container.streams.video[0]
    first = float((stream.start_time or 0) * (stream.time_base or 0))
    try:
        container.seek(max(0, round((first + start) * 1_000_000)))
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                if packet.dts is not None and float(packet.dts * packet.time_base) > first + end:
                    return
                yield Stored.of(packet, 0.0)
    except (OSError, av.FFmpegError) as error:
        raise _refused(name, f"a video that cannot be read at {start:.1f} s ({_reason(error)})") from None


def _refused(name: str, got: str) -> InputError:
    return InputError(
        f"{name}: got {got}, expected one whose packets can be copied, for example H.264 in .mp4 or .mkv; convert it, "
        "or record an overlay video as output"
    )


def _reason(error: Exception) -> str:
    """The reason without the address: FFmpeg's messages contain it with its password."""
    return getattr(error, "strerror", None) or type(error).__name__
