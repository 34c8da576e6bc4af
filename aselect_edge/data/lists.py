"""Lists that come with a data set: text tables, MATLAB files, and the images that they name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import inside


def read_rows(path: Path, columns: int = 2) -> list[list[str]]:
    """The lines of a text table, cut at white space into so many columns, the last of which keeps its spaces."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror}), expected a list of the data set; add it") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not text ({error.reason}), expected a list of the data set; replace it"
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        fields = line.split(maxsplit=columns - 1)
        if not fields:
            continue
        if len(fields) < columns:
            raise InputError(f"{path}: got {line!r} in line {number}, expected {columns} columns; correct it")
        rows.append([*fields[:-1], fields[-1].strip()])
    return rows


def read_matlab(path: Path, *names: str) -> list[Any]:
    """Variables of a MATLAB file with their dimensions of size 1 taken away; raises InputError if one is missing."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(str(path), squeeze_me=True)
        return [content[name] for name in names]
    except KeyError as error:
        raise InputError(f"{path}: has no variable {error}, expected {', '.join(names)}; replace the file") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected a list of the data set; add it") from error
    except (
        MatReadError,
        ValueError,
        TypeError,
        IndexError,
        NotImplementedError,
        OSError,
        EOFError,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: not a MATLAB file ({error}), expected one; fetch it again") from error


def listed(folder: Path, names: Iterable[str], source: Path) -> list[Path]:
    """The files in `folder` that the list `source` names; raises InputError for one outside of it or not there."""
    paths = []
    for name in names:
        try:
            path = inside(folder, name)
        except IntegrityError as error:
            raise InputError(
                f"{source}: got the path {name!r}, expected one inside {folder}; correct the list"
            ) from error
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected it because {source} lists it; add it or correct the list")
        paths.append(path)
    return paths


def numbered(value: str, most: int, source: Path) -> int:
    """A number of 1 to `most` in a list, counted from 0; raises InputError for anything else."""
    if not value.isdecimal() or not 1 <= int(value) <= most:
        raise InputError(f"{source}: got the class {value!r}, expected 1 to {most}; correct the list")
    return int(value) - 1
