"""Lists of a data set: text tables, MATLAB files, and the images that they name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import inside, read_file


def read_text(path: Path) -> str:
    """The text of a list without a byte-order mark; raises InputError."""
    try:
        content = read_file(path)
        encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        return content.decode(encoding)
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror}), expected a list of the data set; add it") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: got a file that is not text ({error.reason}), expected a list of the data set; replace it"
        ) from error


def read_rows(path: Path, columns: int = 2) -> list[list[str]]:
    """The lines of a text table, split at white space into this number of columns; the last one keeps its spaces."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split(maxsplit=columns - 1)
        if not fields:
            continue
        if len(fields) < columns:
            raise InputError(f"{path}: got {line!r} in line {number}, expected {columns} columns; correct it")
        rows.append([*fields[:-1], fields[-1].strip()])
    return rows


def read_matlab(path: Path, *names: str) -> list[Any]:
    """Variables of a MATLAB file without dimensions of size 1; raises InputError if one is missing."""
    content = _load(path)
    missing = next((name for name in names if name not in content), None)
    if missing:
        raise InputError(f"{path}: got no variable {missing!r}, expected {', '.join(names)}; replace the file")
    return [content[name] for name in names]


def read_mask(path: Path) -> NDArray[Any]:
    """The integer matrix (H, W) of a MATLAB file that has one, or of SBD's `GTcls.Segmentation`; raises InputError."""
    content = _load(path, squeeze=False)
    if "GTcls" in content:
        content = {"Segmentation": content["GTcls"]["Segmentation"].item()}
    matrices = [each for each in content.values() if isinstance(each, np.ndarray) and each.dtype.kind in "iufb"]
    whole = [each for each in matrices if each.ndim == 2 and each.size > 1 and (each == np.floor(each)).all()]
    if len(whole) != 1:
        raise InputError(
            f"{path}: got {len(whole)} matrices of whole numbers, expected only the mask; remove the others"
        )
    mask: NDArray[Any] = whole[0].astype(np.int64)
    return mask


def _load(path: Path, squeeze: bool = True) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return {k: v for k, v in loadmat(str(path), squeeze_me=squeeze).items() if not k.startswith("__")}
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
        raise InputError(f"{path}: not a MATLAB file ({error}), expected one; download it again") from error


def listed(folder: Path, names: Iterable[str], source: Path) -> list[Path]:
    """The files in `folder` that the list `source` names; raises InputError for one that is outside or missing."""
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
