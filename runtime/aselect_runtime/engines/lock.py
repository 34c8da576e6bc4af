"""One builder at a time in an export folder, across processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from filelock import FileLock, Timeout

from aselect_runtime.errors import WriteError
from aselect_runtime.files import naming

log = logging.getLogger(__name__)

LOCK = "engines/.lock"
POLL = 0.2
"""Seconds between two attempts: a process that waits for the lock in the kernel could not react to `stop`."""


@contextmanager
def building(folder: Path, stop: Event | None = None) -> Iterator[None]:
    """Hold the folder's lock; waits while another process holds it, and logs which. The kernel frees it at exit.

    `stop` ends the wait with KeyboardInterrupt. Raises WriteError if the folder is not writable.
    """
    stop = stop or Event()
    path = folder / LOCK
    lock = FileLock(path, mode=0o666)
    try:
        path.parent.mkdir(exist_ok=True)
        holder = path.read_text(errors="replace").strip() if path.exists() else ""
        taken = _taken(lock)  # each attempt of filelock 3 empties the file, so it is read before
    except OSError as error:
        raise WriteError(
            f"{path}: could not write ({error.strerror}), expected a writable export folder for its engines; "
            "copy the folder to a path that you may write to"
        ) from error
    if not taken:
        log.info("%s: process %s is building an engine here; waiting for it", folder, holder or "unknown")
        while not _taken(lock):
            if stop.wait(POLL):
                raise KeyboardInterrupt
    try:
        with naming(path):
            path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
