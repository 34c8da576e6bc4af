"""Temporary files and folders beside a result. What a killed process leaves of them, the next one removes.

Each is held by a lock for as long as its process lives: the kernel frees it however that ends.
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
"""In the name of every temporary, and in no other name: what has it is ours to remove."""
PREVIOUS = "-previous"
"""Ends the name of a folder that was moved aside for its successor."""
MOMENT = re.compile(r"\d{8}T\d{6}Z")
"""What `{time}` in the name of an output becomes: each run has names of its own."""
LONGEST = 50
"""Characters of the result's own name in that of its temporary: a disk takes 255 bytes."""


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path`, with its suffix; it is removed at the end if it is still there.

    Those that killed processes left there are removed first.
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
    """Yield an empty folder beside `path`; it is removed at the end if it is still there, and dead ones at the start.

    A result that a killed process had moved aside and not replaced yet is put back.
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
    """Remove what killed processes left of results whose names are `path`'s but for the time in it.

    Only what a checksum shows to be made of such a name is removed, and only where no process holds it.
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
    """Whether a file or folder of this name is one of these."""
    return name.startswith(".") and INFIX in name


def _prefix(path: Path) -> str:
    """Of the temporaries of this result alone: long names differ in their checksum."""
    return f".{path.name[:LONGEST]}-{crc32(os.fsencode(path.name)):08x}{INFIX}"


def _leftovers(folder: Path, prefix: str, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"{glob.escape(prefix)}*{glob.escape(suffix)}"))


def _sweep(folder: Path, prefix: str, suffix: str) -> None:
    """Remove the temporaries whose process is dead."""
    for path in _leftovers(folder, prefix, suffix):
        _remove_if_dead(path)


def _remove_if_dead(path: Path) -> None:
    with suppress(OSError):  # somebody else's, at work, or a disk without locks: it stays
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
    """Take its lock; False if it was swept away before."""
    with suppress(OSError):  # a disk without locks: nobody sweeps there either
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path.exists()
