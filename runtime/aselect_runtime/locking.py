"""One process at a time in what is written in place; the kernel releases the lock however the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from aselect_runtime.errors import WriteError


def lock(handle: int, path: Path, what: str = "file") -> None:
    """Lock an open file or folder until its handle is closed; raises WriteError if another process has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WriteError(
            f"{path}: is being written by another process, expected a {what} of this run alone; stop the other or "
            "choose another path"
        ) from error
    except OSError:  # a file system without locks
        pass


@contextmanager
def locking(path: Path) -> Iterator[Callable[[], None]]:
    """Lock a file that may not exist yet: now if it does, otherwise when the yielded function is called.

    Both raise WriteError if another process has locked it.
    """
    with ExitStack() as stack:
        locked = False

        def claim() -> None:
            nonlocal locked
            with suppress(FileNotFoundError, PermissionError):  # a file may be writable and not readable
                if not locked:
                    lock(stack.enter_context(path.open("rb")).fileno(), path)
                    locked = True

        claim()
        yield claim


@contextmanager
def locking_folder(folder: Path) -> Iterator[None]:
    """Lock a folder inside the block, without a file in it; raises WriteError if another process has locked it."""
    with ExitStack() as stack:
        with suppress(PermissionError):  # a folder may be writable and not readable
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, handle)
            lock(handle, folder, "folder")
        yield
