"""DIR/ID.mkv: the seconds around each event, copied from the compressed stream of the camera or file."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from urllib.parse import urlsplit

from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.locking import locking_folder
from aselect_runtime.media import is_video
from aselect_runtime.redaction import redact
from aselect_runtime.rules import Event, Rules
from aselect_runtime.sinks.event_recording import EventRecording
from aselect_runtime.sinks.event_sink import Deliver
from aselect_runtime.sinks.file_recorder import check_recordable, record_part
from aselect_runtime.sinks.stream_recorder import StreamRecorder
from aselect_runtime.sources.network import Endpoint

OURS = re.compile(r"\d+-\d+-[A-Za-z0-9_-]+\.mkv")
"""Names of the recorded files (`Event.id`); no other file is ever removed."""
DAY = 86_400.0
OTHERS = frozenset({"synthetic", "test", "csi"})
"""Schemes of inputs that deliver frames and no compressed stream."""
CLOCK_SET = 1_704_067_200.0
"""The start of 2024 in Unix seconds: earlier times are those of a machine whose clock was not set yet."""
MARGIN = 5.0
"""Additional seconds that a ring keeps, because an event is known only after inference."""

log = logging.getLogger(__name__)


class EventVideos:
    """An EventSink that records videos. Raises InputError for an input without a compressed stream.

    Entered, it raises WriteError if the folder cannot be written or another process records there.
    """

    def __init__(self, recording: EventRecording, rules: Rules, inputs: Sequence[str]) -> None:
        self.name = f"{recording.folder}/"
        self._recording = recording
        self._inputs = [_recordable(uri) for uri in inputs]
        self._made: dict[Path, float] = {}
        """When each video was recorded, on the monotonic clock."""
        longest = max(rule.seconds for rule in rules.rules)
        kept = recording.pre + longest + MARGIN
        self._recorders = {
            number: StreamRecorder(Endpoint.of(uri), kept)
            for number, uri in enumerate(self._inputs)
            if not _is_file(uri)
        }

    def __enter__(self) -> Deliver:
        try:
            self._recording.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(
                f"{self.name}: could not write ({error.strerror}), expected a writable folder; choose another"
            ) from error
        with ExitStack() as stack:
            stack.enter_context(locking_folder(self._recording.folder))
            stack.callback(self._tidy)
            self._tidy()
            for recorder in self._recorders.values():
                recorder.start()
                stack.callback(recorder.stop)
            self._open = stack.pop_all()
        return self._deliver

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _deliver(self, event: Event) -> None:
        path = self._recording.folder / f"{event.id}.mkv"
        recorder = self._recorders.get(event.stream)
        ago = time.time() - time.monotonic()
        if recorder is not None and event.end is None:
            recorder.begin(path, event.start - ago - self._recording.pre)
        elif recorder is not None and event.end is not None:
            recorder.end(path, event.end - ago + self._recording.post)
        elif event.end is not None and event.position is not None:
            start = event.position - self._recording.pre
            end = event.position + event.seconds + self._recording.post
            record_part(self._inputs[event.stream], path, start, end)
        self._tidy()

    def _tidy(self) -> None:
        """Remove videos that are too old, and the oldest ones if all together are too large."""
        found: dict[Path, os.stat_result] = {}
        for path in self._recording.folder.glob("*.mkv"):
            with suppress(FileNotFoundError):  # somebody removed it meanwhile, or it is a link to nothing
                if OURS.fullmatch(path.name):
                    found[path] = path.stat()
        now = time.monotonic()
        # Each age is asked once: in a run that lasts, the clock may be set.
        self._made = {path: self._made.get(path, now - _age(seen.st_mtime)) for path, seen in found.items()}
        busy = {path for recorder in self._recorders.values() for path in recorder.busy()}
        total, oldest = 0, now - self._recording.most_days * DAY
        for path in sorted(found, key=lambda path: (self._made[path], found[path].st_mtime), reverse=True):
            size = found[path].st_size
            total += size
            if path not in busy and (self._made[path] < oldest or total > self._recording.most_bytes):
                total -= size
                path.unlink(missing_ok=True)


def _age(made: float) -> float:
    """Seconds since a video was recorded, at `made` by the clock.

    0 if that cannot be told, because the clock was not set then or is not now. Such a video counts as new: it is
    removed for its age only when this run is as old, or if the folder is too large.
    """
    return max(0.0, time.time() - made) if made >= CLOCK_SET else 0.0


def _is_file(uri: str) -> bool:
    """Whether the input is a file, whose parts can be read at any time, and not a live stream."""
    return is_video(PurePosixPath(urlsplit(uri).path)) if uri.startswith(("http://", "https://")) else "://" not in uri


def _recordable(uri: str) -> str:
    scheme = uri.split("://", 1)[0] if "://" in uri else ""
    frames_only = " ! " in uri or scheme in OTHERS or (not scheme and not is_video(Path(uri)))
    if frames_only:
        raise InputError(
            f"{redact(uri)}: got an input with no compressed stream, expected a network camera or a video file to "
            "record events from; leave out the recording, or record an overlay video as output",
            parameter="record_events",
        )
    if not scheme:
        check_recordable(uri)
    return uri
