"""One run at a time in a working folder: two would mix their checkpoints, curves and bundles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from aselect_runtime.errors import WriteError
from aselect_runtime.locking import locking_folder


@contextmanager
def alone_in(workdir: Path) -> Iterator[None]:
    """Make the folder and lock it.

    A run that fails before it has written anything leaves no folder. Raises WriteError, before the work, if another
    process holds the lock, or for a folder that cannot be written.
    """
    new = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise WriteError(
            f"{workdir}: could not write ({error.strerror}), expected a folder for checkpoints; choose another place",
            parameter="out",
        ) from error
    with locking_folder(workdir):
        try:
            yield
        except BaseException:
            with suppress(OSError):  # not empty
                for folder in new:
                    folder.rmdir()
            raise
