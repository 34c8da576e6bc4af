"""Reading and writing files so that a crash, a full disk or a hostile name leaves nothing half-done."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from aselect_runtime.errors import InputError, IntegrityError, WriteError

TEMPORARY, PREVIOUS = ".aselect-", "-previous"
"""How the names of temporary files and folders begin, and how that of a folder ends that is being replaced."""
MOMENT = 2.0
"""Seconds after its last change in which a temporary file is left alone: its writer may not have locked it yet."""
WRITE_FAULTS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO, errno.EISDIR),
        *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP),
    }
)
"""What a disk or its permissions can refuse; any other OSError has a cause of its own and keeps it."""


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def inside(folder: Path, name: str) -> Path:
    """The path of `name` inside `folder`; refuses absolute names, names that climb out and names no disk takes."""
    pure = PurePosixPath(name)
    usable = name.isprintable() and 0 < len(name.encode()) <= 255
    if not usable or pure.is_absolute() or ".." in pure.parts or "\\" in name:
        raise IntegrityError(
            f"{folder}: got the file name {name!r}, expected a relative path inside the folder; "
            "take the folder from a source you trust"
        )
    return folder / pure


def check_files(folder: Path, hashes: dict[str, str]) -> None:
    """Raise IntegrityError unless every named file exists in `folder` with the given SHA-256."""
    for name, expected in hashes.items():
        path = inside(folder, name)
        if not path.is_file():
            raise IntegrityError(f"{path}: file is missing, expected it as the record lists it; write the folder again")
        got = sha256(path)
        if got != expected:
            raise IntegrityError(
                f"{path}: got SHA-256 {got[:12]}…, expected {expected[:12]}…; the file is corrupt or was changed, "
                "write the folder again"
            )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`, else removed.

    Where `path` is a symbolic link, what it points at is replaced.
    """
    try:
        path = path.resolve() if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix)
    except OSError as error:
        raise _write_error(path, error) from error
    _hold(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in WRITE_FAULTS:
            raise
        raise _write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def check_place(path: Path) -> None:
    """Raise WriteError unless a file can be written at `path`; makes its folder, and touches no file of that name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise _write_error(path, error) from error


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write bytes or UTF-8 text to `path`, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def check_replaceable(path: Path, marker: str) -> None:
    """Raise InputError if `path` is something that `atomic_folder` must not replace."""
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / marker).is_file())):
        raise InputError(
            f"{path}: exists and has no {marker}, expected a new folder or an older result; "
            "choose another place or remove it yourself",
            parameter="out",
        )


@contextmanager
def atomic_folder(path: Path, marker: str) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it replaces `path`, else it is removed.

    An existing `path` is replaced only if it is empty or holds the file `marker` (so it is an older result
    of the same kind); anything else is refused with InputError, because it is not ours to delete.
    """
    path = path.resolve()
    check_replaceable(path, marker)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=TEMPORARY))
        handle = os.open(temporary, os.O_RDONLY)
    except OSError as error:
        raise _write_error(path, error) from error
    _hold(handle)
    previous = temporary.with_name(temporary.name + PREVIOUS)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            path.replace(previous)
        temporary.replace(path)
    except OSError as error:
        if error.errno not in WRITE_FAULTS:
            raise
        raise _write_error(path, error) from error
    finally:
        if previous.exists() and not path.exists():  # failed or interrupted between the two renames
            previous.replace(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder.

    Whoever writes one holds a lock on it, which ends with the process. One that was killed while it replaced a folder
    left the older result too: both stay.
    """
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.name.endswith(PREVIOUS) or path.with_name(path.name + PREVIOUS).exists():
            continue
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                old = time.time() - os.fstat(handle).st_mtime > MOMENT  # or not locked yet
                if old and _hold(handle):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)


def _hold(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False where another has it, or the disk has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_error(path: Path, error: OSError) -> WriteError:
    reason = error.strerror or str(error)
    return WriteError(f"{path}: could not write ({reason}), expected a writable place; free space or choose another")
