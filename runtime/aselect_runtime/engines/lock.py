"""One builder at a time in an export folder, across processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from aselect_runtime.errors import WriteError
from aselect_runtime.progress import Watch

LOCK = "engines/.lock"
POLL = 0.2
"""Seconds between two tries: a process that sleeps in the kernel for the lock would not hear of `stop`."""


@contextmanager
def building(folder: Path, watch: Watch, stop: Event | None = None) -> Iterator[None]:
    """Hold the folder's lock, waiting for whoever holds it, who is named; the kernel frees it if a process dies.

    `stop` ends the wait with KeyboardInterrupt. Raises WriteError where the folder cannot be written to.
    """
    stop = stop or Event()
    path = folder / LOCK
    try:
        path.parent.mkdir(exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise WriteError(
            f"{path}: could not write ({error.strerror}), expected a writable export folder for its engines; "
            "copy the folder to a place of your own"
        ) from error
    try:
        if not _taken(handle):
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
            watch.say(f"{folder}: process {holder} is building an engine here; waiting for it")
            while not _taken(handle):
                if stop.wait(POLL):
                    raise KeyboardInterrupt
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)  # this releases the lock; the file stays, because removing it would race with who waits


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
