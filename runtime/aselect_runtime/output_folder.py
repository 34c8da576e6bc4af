"""Writing output folders atomically; a folder replaces only an older result of the same kind."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aselect_runtime.errors import InputError, RecordError
from aselect_runtime.files import inside, naming, naming_removal, sync, sync_folder, umask
from aselect_runtime.temporaries import PREVIOUS, is_temporary, temporary_folder

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""From linux/fcntl.h and linux/fs.h."""
NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})
KEPT = ".kept"
"""Suffix for a file that is not part of the old result and has the same name as a new file."""


@dataclass(frozen=True)
class FolderKind:
    """How a folder of results is recognised: by a file named `marker`, which lists the result's files.

    `files` reads the marker at the given path and returns file names relative to the folder; it raises RecordError if
    the marker is of another kind.
    """

    marker: str
    files: Callable[[Path], Collection[str]]


def check_replaceable(path: Path, kind: FolderKind) -> frozenset[str]:
    """The files in `path` that belong to an older result of this kind; empty for a new or empty folder.

    Raises InputError for any other folder or a file, which must not be changed.
    """
    path = path.resolve()
    if not path.exists():
        return frozenset()
    if not path.is_dir():
        raise InputError(f"{path}: is a file, expected a new folder or an older result; choose another path")
    marker = path / kind.marker
    if not marker.exists():
        if not any(_foreign(path)):
            return frozenset()
        raise InputError(
            f"{path}: exists and has no {kind.marker}, expected a new folder or an older result; "
            "choose another path or remove it yourself",
            parameter="out",
        )
    try:
        ours = frozenset({kind.marker, *kind.files(marker)})
    except RecordError as error:
        raise InputError(
            f"{path}: got a {kind.marker} of another kind ({error}), expected a new folder or an older "
            "result; choose another path or remove it yourself",
            parameter="out",
        ) from error
    for name in ours:
        inside(path, name)  # the marker may be malicious
    return ours


@contextmanager
def atomic_folder(path: Path, kind: FolderKind) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it replaces `path`, otherwise it is removed.

    An older result of the same kind is replaced, in one step if the file system supports that; files that its marker
    does not list are kept. A mount point, the current folder and a folder whose parent is not writable cannot be
    replaced: there the files are moved in one by one, the marker last. Raises InputError for a folder that is no older
    result, and WriteError.
    """
    path = path.resolve()
    check_replaceable(path, kind)
    stays = _must_stay(path)
    with working_folder(path) as temporary, naming(path), naming_removal(path, temporary):
        yield temporary
        _sync_all(temporary)
        temporary.chmod(0o777 & ~umask())
        ours = check_replaceable(path, kind)  # again: the work may have taken hours
        if stays:
            _move_in(temporary, path, ours, kind.marker)
        else:
            _take_place(temporary, path, ours)


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder on the file system of the folder `path`; it is removed at the end.

    It is next to `path`, or inside where `path` cannot be replaced, whose parent may be another file system or not
    writable. Raises WriteError.
    """
    path = path.resolve()
    with ExitStack() as stack:
        with naming(path, faults=None):
            path.parent.mkdir(parents=True, exist_ok=True)
            place = path / path.name if _must_stay(path) else path
            temporary = stack.enter_context(temporary_folder(place))
        yield temporary


def _take_place(temporary: Path, path: Path, ours: frozenset[str]) -> None:
    if path.exists():
        carried = _carry_over(path, temporary, ours)
        _swap(temporary, path)
        _carry_over(temporary, path, ours | carried)  # files that were added in the meantime
    else:
        temporary.rename(path)
    sync_folder(path.parent)


def _must_stay(path: Path) -> bool:
    """Whether this is an existing folder that no other can replace."""
    if not path.exists():
        return False
    return os.path.ismount(path) or path == Path.cwd() or not os.access(path.parent, os.W_OK | os.X_OK)


def _foreign(path: Path) -> Iterator[Path]:
    """The entries of a folder, without temporary files and `lost+found`."""
    return (each for each in path.iterdir() if not is_temporary(each.name) and each.name != "lost+found")


def _sync_all(folder: Path) -> None:
    for here, _, names in os.walk(folder):
        for name in names:
            sync(Path(here, name))
        sync_folder(Path(here))


def _entries(folder: Path) -> Iterator[Path]:
    """Every file and symbolic link below a folder, relative to it, except temporary ones."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_temporary(name)]
        linked = [name for name in folders if Path(here, name).is_symlink()]
        for name in (*names, *linked):
            if not is_temporary(name):
                yield Path(here, name).relative_to(folder)


def _carry_over(old: Path, new: Path, ours: frozenset[str]) -> frozenset[str]:
    """Copy the files of an older folder that are not in `ours` into the new one; returns their names.

    A file whose name exists in the new folder gets the suffix KEPT.
    """
    carried = frozenset(entry.as_posix() for entry in _entries(old)) - ours
    for entry in sorted(carried):
        source, target = old / entry, _free(new / entry)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:  # the file system has no hard links, or not to files of other users
            shutil.copy2(source, target, follow_symlinks=False)
    return carried


def _free(path: Path) -> Path:
    while os.path.lexists(path):
        path = path.with_name(path.name + KEPT)
    return path


def _move_in(temporary: Path, path: Path, ours: frozenset[str], marker: str) -> None:
    """Move the new files over the old ones, the marker last: until then the old marker describes the folder."""
    names = {entry.as_posix() for entry in _entries(temporary)}
    for name in sorted(names, key=lambda name: (name == marker, name)):
        target = path / name
        if name not in ours and os.path.lexists(target):
            target.rename(_free(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).replace(target)
    for old in (path / name for name in ours - names):
        if old.parent.resolve().is_relative_to(path):  # not through a link that leads out of the folder
            old.unlink(missing_ok=True)
    sync_folder(path)


def _swap(temporary: Path, path: Path) -> None:
    """Swap the folders `temporary` and `path`."""
    if _exchange(temporary, path):
        return
    previous = temporary.with_name(temporary.name + PREVIOUS)
    path.rename(previous)
    try:
        temporary.rename(path)
    except BaseException:
        previous.rename(path)
        raise
    previous.rename(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False if the kernel or the file system does not support it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    fault = ctypes.get_errno()
    if fault in NO_EXCHANGE:
        return False
    raise OSError(fault, os.strerror(fault), str(other))
