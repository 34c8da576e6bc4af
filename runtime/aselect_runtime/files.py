"""Reading and writing files so that a crash, a full disk or a malicious name leaves nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from aselect_runtime.errors import IntegrityError, WriteError
from aselect_runtime.temporaries import temporary_file

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

WRITE_FAULTS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO, errno.EISDIR),
        *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP),
    }
)
"""Errors of a disk or its permissions, which become WriteError; any other OSError is passed on unchanged."""


LARGEST = 4 << 30
"""Bytes of a file that is read as one: COCO's largest list of annotations has an eighth of that."""


LONGEST_NAME, LONGEST_PATH = 255, 4000
"""Bytes of a name that a disk takes, and of a path below a folder that a system does."""


def read_file(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises OSError, also for a pipe, which would be waited for, for a device, which never ends, and for a larger file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, more than {most}", str(path))
        return stream.read(most)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fits(name: str) -> bool:
    """Whether a disk takes a relative path: each of its parts has 1 to LONGEST_NAME bytes."""
    return bool(name) and all(len(part.encode()) <= LONGEST_NAME for part in name.split("/"))


def inside(folder: Path, name: str) -> Path:
    """The path of `name` inside `folder`.

    Raises IntegrityError for absolute names, names that lead out of the folder and names that no file system accepts.
    """
    pure = PurePosixPath(name)
    usable = name.isprintable() and len(name.encode()) <= LONGEST_PATH and fits(name)
    if not usable or pure.is_absolute() or ".." in pure.parts or "\\" in name:
        raise IntegrityError(
            f"{folder}: got the file name {name!r}, expected a relative path inside the folder; "
            "use a folder from a source you trust"
        )
    return folder / pure


def check_files(folder: Path, hashes: dict[str, str]) -> None:
    """Raise IntegrityError unless every named file exists in `folder` with the given SHA-256."""
    for name, expected in hashes.items():
        path = inside(folder, name)
        if not path.is_file():
            raise IntegrityError(f"{path}: file is missing, but the record lists it; write the folder again")
        got = sha256(path)
        if got != expected:
            raise IntegrityError(
                f"{path}: got SHA-256 {got[:12]}…, expected {expected[:12]}…; the file is corrupt or was changed, "
                "write the folder again"
            )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is synced and renamed over `path`, otherwise removed.

    If `path` is a symbolic link, its target is replaced. Temporary files that killed processes left are removed first.
    """
    with ExitStack() as stack:
        with naming(path, faults=None):
            path = path.resolve() if path.is_symlink() else path
            path.parent.mkdir(parents=True, exist_ok=True)
            refuse_special(path)
            temporary = stack.enter_context(temporary_file(path))
        with naming(path), naming_removal(path, temporary):
            yield temporary
            sync(temporary)
            temporary.chmod(0o666 & ~umask())
            temporary.replace(path)
            sync_folder(path.parent)


def refuse_special(path: Path) -> None:
    """Raise OSError for a pipe, which would be waited for, and for a device, which would be replaced by a file."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError("it is a pipe, socket or device")


def check_place(path: Path) -> None:
    """Raise WriteError unless a file can be written at `path`; creates its folder, and changes no existing file."""
    with naming(path, faults=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_special(path)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write bytes or UTF-8 text to `path`, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


class WholeFile(FileIO):
    """An unbuffered file that takes all bytes or raises OSError: FileIO's `write` may take a part and say so only in
    its result, as on a disk that becomes full."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all bytes; returns their number."""
        rest = whole = memoryview(data).cast("B")
        while rest:
            rest = rest[super().write(rest) or 0 :]
        return len(whole)

    def append(self, data: bytes) -> None:
        """Write the bytes at the end; if that fails, the file is as before."""
        size = self.seek(0, os.SEEK_END)
        try:
            self.write(data)
        except OSError:
            self.truncate(size)
            raise


@contextmanager
def naming(path: Path, faults: frozenset[int] | None = WRITE_FAULTS) -> Iterator[None]:
    """Turn OSErrors with these error numbers, or every OSError if `faults` is None, into a WriteError naming `path`."""
    try:
        yield
    except OSError as error:
        if faults is not None and error.errno not in faults:
            raise
        # A file in the place of a folder is said to exist where the folder is to be made.
        number = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
        reason = str(error) if number is None else os.strerror(number)
        raise WriteError(
            f"{path}: could not write ({reason}), expected a writable path; free space or choose another"
        ) from error


@contextmanager
def naming_removal(path: Path, temporary: Path) -> Iterator[None]:
    """Raise `removed(path)` for the FileNotFoundError that follows if somebody removes the temporary file or folder."""
    try:
        yield
    except FileNotFoundError as error:
        if temporary.exists():  # another file is missing
            raise
        raise removed(path) from error


def removed(path: Path) -> WriteError:
    """The error for a file or folder that somebody removed while it was written."""
    return WriteError(
        f"{path}: was removed during the run, or its folder was, expected both to stay until the end; write it again"
    )


def shell_word(path: Path) -> str:
    """A path as an argument of a shell's command: quoted, and not mistaken for an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def sync(path: Path) -> None:
    """Flush a file to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, if the file system supports it and this process may read the folder."""
    with suppress(OSError):
        sync(path)


def umask() -> int:
    """The file mode creation mask of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
