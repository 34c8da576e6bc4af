"""Temporary files and folders next to a result. Those that a killed process leaves, the next process removes.

Each is locked while its process runs: the kernel releases the lock however the process ends.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

INFIX = ".aselect-"
"""Part of the name of every temporary file and of no other: files with it may be removed."""
PREVIOUS = "-previous"
"""Suffix of an older folder while it is being replaced."""
MOMENT = re.compile(r"\d{8}T\d{6}Z")
"""What `{time}` in the name of an output is replaced with: each run has other names."""
LONGEST = 50
"""Characters of the result's name that its temporary file's name contains: file systems allow 255 bytes."""


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield an empty file next to `path`, with the same suffix; it is removed at the end if it still exists.

    Temporary files that killed processes left are removed first.
    """
    _sweep(path.parent, _prefix(path), path.suffix)
    _sweep_dated(path)
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=path.suffix)
        if _claimed(handle, Path(name)):
            break
        os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to `path`; it is removed at the end if it still exists.

    Temporary folders that killed processes left are removed first; if such a process had moved an older result aside
    and not yet replaced it, the older result is restored.
    """
    for aside in _leftovers(path.parent, _prefix(path), PREVIOUS):
        if not path.exists():
            aside.rename(path)
    _sweep(path.parent, _prefix(path), "")
    _sweep_dated(path)
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        if _claimed(handle, folder):
            break
        os.close(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _sweep_dated(path: Path) -> None:
    """Remove what killed processes left of results whose names differ from `path`'s only in the time.

    Only files whose checksum matches such a name are removed, and only if no process holds their lock.
    """
    if not MOMENT.search(path.name):
        return
    name = MOMENT.pattern.join(map(re.escape, MOMENT.split(path.name)))
    made = re.compile(
        rf"\.(?P<name>{name})-(?P<sum>[0-9a-f]{{8}}){re.escape(INFIX)}\w{{8}}(?:{re.escape(path.suffix)})?"
    )
    with suppress(OSError):  # a folder that may not be read
        for found in list(path.parent.iterdir()):
            match = made.fullmatch(found.name)
            if match and f"{crc32(os.fsencode(match['name'])):08x}" == match["sum"]:
                _remove_if_dead(found)


def is_temporary(name: str) -> bool:
    """Whether this is the name of a temporary file or folder."""
    return name.startswith(".") and INFIX in name


def _prefix(path: Path) -> str:
    """Prefix of this result's temporary files; a checksum tells shortened long names apart."""
    return f".{path.name[:LONGEST]}-{crc32(os.fsencode(path.name)):08x}{INFIX}"


def _leftovers(folder: Path, prefix: str, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"{glob.escape(prefix)}*{glob.escape(suffix)}"))


def _sweep(folder: Path, prefix: str, suffix: str) -> None:
    """Remove the temporary files whose process has ended."""
    for path in _leftovers(folder, prefix, suffix):
        _remove_if_dead(path)


def _remove_if_dead(path: Path) -> None:
    with suppress(OSError):  # another user's, still in use, or a file system without locks: it is kept
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(handle)


def _claimed(handle: int, path: Path) -> bool:
    """Lock the file; False if another process removed it first, or holds the lock because it is about to."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: no process removes files there either
        pass
    return path.exists()
