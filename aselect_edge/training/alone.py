"""One run at a time in a working folder: two would mix their checkpoints, curves and bundles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from aselect_runtime.errors import InputError, WriteError

LOCK = ".lock"


@contextmanager
def alone_in(workdir: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which the kernel frees if the process is killed.

    A run that fails before it has written anything leaves no folder. Raises InputError if another run holds the lock,
    and WriteError for a folder that cannot be written, before the work.
    """
    new = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    lock = FileLock(workdir / LOCK, mode=0o666)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{workdir}: got a folder in which another process is training, expected none; wait until it ends, or "
            "choose another folder",
            parameter="out",
        ) from None
    except OSError as error:
        raise WriteError(
            f"{workdir}: could not write ({error.strerror}), expected a folder for checkpoints; choose another place",
            parameter="out",
        ) from error
    try:
        yield
    except BaseException:
        _remove_unused(workdir, new)
        raise
    finally:
        lock.release()


def _remove_unused(workdir: Path, new: Sequence[Path]) -> None:
    """Remove the folders that were made for the lock, if nothing else is in them."""
    with suppress(OSError):
        if [each.name for each in workdir.iterdir()] == [LOCK] and new:
            (workdir / LOCK).unlink()
        for folder in new:
            folder.rmdir()
