"""Rows of arrays that are slow to compute, in a folder: written as they are computed, so that a killed run resumes.

One `.npy` file per array, read back through a memory map, and `index.json`, which holds what they were computed from
(`key`), how many rows are done and the checksum of each file so far. Files that do not match are computed again.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from aselect_edge.team import ALONE, Team
from aselect_runtime.errors import InputError, IntegrityError, WriteError
from aselect_runtime.files import atomic_write, inside
from aselect_runtime.progress import Progress, silent

log = logging.getLogger(__name__)

INDEX, LOCK = "index.json", ".lock"

Rows: TypeAlias = dict[str, NDArray[Any]]
"""Arrays by name, with the same first dimension."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: PositiveInt
    """Size of the header and the rows that are done; bytes beyond it are from a killed run."""
    crc32: NonNegativeInt


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    rows: PositiveInt
    """The final number of rows."""
    done: NonNegativeInt
    files: dict[str, _File]


def stored_rows(
    folder: Path,
    key: str,
    *,
    wanted: int,
    limit: int,
    chunk: int,
    compute: Callable[[range], Rows],
    what: str = "rows",
    progress: Progress = silent,
    team: Team = ALONE,
) -> Rows:
    """As many rows of `wanted` as fit in `limit` bytes, at least one, as read-only memory maps of files in `folder`.

    `compute` makes the rows of a range, `chunk` at a time; rows that an earlier call with the same `key`, `wanted` and
    `limit` left in `folder` are not computed again, and those of another call are removed. `what` names the rows in
    `progress`. One process writes at a time; another waits for it. The processes of a `team` call this together and
    share each chunk, which is larger by their number; the first one writes. Raises WriteError for a full or read-only
    disk, and InputError if `folder` is not shared by all of the team.
    """
    if team.size == 1:
        return _written(folder, key, wanted, limit, chunk, compute, what, progress)
    if team.leads:
        names = list(_written(folder, key, wanted, limit, chunk * team.size, _led(team, compute), what, progress))
        team.told(names)
    else:
        names = _followed(team, compute)
    return _mapped(folder, names)


def _led(team: Team, compute: Callable[[range], Rows]) -> Callable[[range], Rows]:
    """`compute` shared by the team, for its first process."""

    def together(part: range) -> Rows:
        team.told(part)
        shares = [rows for rows in team.collected(compute(_share(team, part))) if rows]
        return {name: np.concatenate([rows[name] for rows in shares]) for name in shares[0]}

    return together


def _followed(team: Team, compute: Callable[[range], Rows]) -> list[str]:
    """Compute shares until the first process has all rows; returns their names."""
    while isinstance(part := team.told(), range):
        share = _share(team, part)
        team.collected(compute(share) if share else {})
    names: list[str] = part
    return names


def _share(team: Team, part: range) -> range:
    """This process's share; the first process has one even of a single row."""
    ends = [len(part) - len(part) * (team.size - place) // team.size for place in (team.rank, team.rank + 1)]
    return part[ends[0] : ends[1]]


def _written(
    folder: Path,
    key: str,
    wanted: int,
    limit: int,
    chunk: int,
    compute: Callable[[range], Rows],
    what: str,
    progress: Progress,
) -> Rows:
    """See `stored_rows`, for the process that writes."""
    key = f"{key} {wanted} {limit}"
    with _alone(folder):
        index = _readable(folder, key)
        before = index.done if index else 0
        if index is None:
            index = _begun(folder, key, compute(range(min(chunk, wanted))), wanted, limit)
        if 0 < before < index.rows:
            log.info("%s: resuming after features of %d of %d %s", folder, before, index.rows, what)
        progress(f"features of {index.rows} {what}", index.done / index.rows)
        while index.done < index.rows:
            part = range(index.done, min(index.done + chunk, index.rows))
            index = _append(folder, index, compute(part), len(part))
            progress(f"features of {index.rows} {what}", index.done / index.rows)
        return _mapped(folder, list(index.files))


def _mapped(folder: Path, names: list[str]) -> Rows:
    try:
        return {name: np.load(_path(folder, name), mmap_mode="r") for name in names}
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: got no {Path(error.filename).name}, expected the file that the first process wrote; choose a "
            "folder that all processes share",
            parameter=("cache", "out"),
        ) from error


def _path(folder: Path, name: str) -> Path:
    return inside(folder, f"{name}.npy")


def _readable(folder: Path, key: str) -> _Index | None:
    """The index of the files in `folder`; None if there is none, or it has another key or is damaged."""
    try:
        index = _Index.model_validate_json((folder / INDEX).read_bytes())
        whole = all(_checksum(_path(folder, name), file.bytes) == file.crc32 for name, file in index.files.items())
    except (OSError, ValidationError, IntegrityError):
        return None
    return index if whole and index.key == key and index.done <= index.rows else None


def _checksum(path: Path, size: int) -> int | None:
    """CRC-32 of a file's first `size` bytes; None if it is shorter."""
    crc = 0
    with path.open("rb") as stream:
        while size and (data := stream.read(min(size, 1 << 20))):
            crc, size = zlib.crc32(data, crc), size - len(data)
    return None if size else crc


def _begun(folder: Path, key: str, first: Rows, wanted: int, limit: int) -> _Index:
    """The index of new files that hold as many rows of `first` as fit, replacing any earlier files."""
    row = sum(array[0].nbytes for array in first.values())
    rows = min(wanted, max(1, limit // row))
    with _writing(folder):
        (folder / INDEX).unlink(missing_ok=True)
        for old in folder.glob("*.npy"):
            old.unlink()  # not overwritten: another process may still map the file
        free = shutil.disk_usage(folder).free
        if free < rows * row:
            raise WriteError(
                f"{folder}: got {_told(free)} free, expected {_told(rows * row)} for {rows} rows of "
                "features; free space or choose another place",
                parameter="cache",
            )
        files = {}
        for name, array in first.items():
            path, shape = _path(folder, name), (rows, *array.shape[1:])
            start = np.lib.format.open_memmap(path, mode="w+", dtype=array.dtype, shape=shape).offset
            crc = _checksum(path, start)
            assert crc is not None
            files[name] = _File(bytes=start, crc32=crc)
    done = min(rows, len(next(iter(first.values()))))
    return _append(folder, _Index(key=key, rows=rows, done=0, files=files), first, done)


def _told(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def _append(folder: Path, index: _Index, rows: Rows, count: int) -> _Index:
    """The index after appending the first `count` of `rows`, overwriting bytes beyond the rows that are done."""
    files = {}
    for name, file in index.files.items():
        data = np.ascontiguousarray(rows[name][:count]).tobytes()
        # Not through the memory map: writing to one on a full disk kills the process (SIGBUS).
        with _writing(folder), _path(folder, name).open("r+b") as stream:
            stream.seek(file.bytes)
            stream.write(data)
        files[name] = _File(bytes=file.bytes + len(data), crc32=zlib.crc32(data, file.crc32))
    index = index.model_copy(update={"done": index.done + count, "files": files})
    atomic_write(folder / INDEX, index.model_dump_json())
    return index


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Context in which no other process writes to `folder`; the lock is released if the process is killed."""
    lock = FileLock(folder / LOCK, mode=0o666)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{folder}: could not write the features ({error.strerror}), expected a writable place with room for "
            "them; free space or choose another place",
            parameter="cache",
        ) from error
