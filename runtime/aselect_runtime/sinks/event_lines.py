"""events.jsonl: one line when an event starts and one when it has ended; the snapshots are in a folder next to it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from aselect_runtime.files import WholeFile, atomic_write, check_place, naming, refuse_special
from aselect_runtime.media import printable
from aselect_runtime.rules import Event
from aselect_runtime.sinks.event_sink import Deliver

SNAPSHOTS = 1000
"""Maximum number of JPEGs; then the oldest are removed."""
OURS = re.compile(r"\d+-\d+-[A-Za-z0-9_-]+\.jpg")


@contextmanager
def event_lines(path: Path) -> Iterator[Deliver]:
    """Appends to the file, so that a service that is restarted keeps earlier events.

    A line is `Event.to_dict` with `snapshot`, the path of a JPEG relative to the file, or null. The snapshot of an
    event's end replaces that of its start. Raises WriteError.
    """
    with naming(path, faults=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_special(path)
        path.touch()
    folder = snapshot_folder(path)
    if os.path.lexists(folder):  # a file in its place, or a folder of another user, would hold up every event
        check_place(folder / "a.jpg")
    snapshots = _Snapshots(folder)

    def deliver(event: Event) -> None:
        name = snapshots.write(event)
        shown = None if name is None else printable(PurePath(name))
        line = json.dumps({**event.to_dict(), "snapshot": shown}, ensure_ascii=False)
        with naming(path, faults=None):
            _append(path, f"{line}\n".encode())

    yield deliver


def snapshot_folder(path: Path) -> Path:
    """The folder of the snapshots that belong to a file of events."""
    return path.with_suffix("")


class _Snapshots:
    """The JPEGs in the folder, the newest SNAPSHOTS of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = [file for file in folder.glob("*.jpg") if OURS.fullmatch(file.name)]
        self._files = sorted(found, key=lambda file: (int(file.name.split("-")[0]), file.name))

    def write(self, event: Event) -> str | None:
        """Write the event's snapshot; returns its path relative to the folder's parent, None without a frame."""
        if event.snapshot is None:
            return None
        file = self._folder / f"{event.id}.jpg"
        atomic_write(file, event.snapshot)
        if file not in self._files[-SNAPSHOTS:]:
            self._files.append(file)
        while len(self._files) > SNAPSHOTS:
            self._files.pop(0).unlink(missing_ok=True)
        return f"{self._folder.name}/{file.name}"


def _append(path: Path, line: bytes) -> None:
    """Append a line; an earlier line that a full disk or a kill cut off is ended first."""
    with WholeFile(path, "a+") as stream:
        if stream.seek(0, 2):
            stream.seek(-1, 2)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.append(line)
