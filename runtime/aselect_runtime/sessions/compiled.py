"""Compiled models, kept on disk so that the next start need not compile: whole, unchanged, and of this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.files import sha256
from aselect_runtime.local_cache import cache_folder
from aselect_runtime.output_folder import FolderKind, atomic_folder

SEAL = "sha256.json"
"""The hash of every file of a folder. A library that loads what it compiled does not notice that a bit has changed."""
COMPILED = FolderKind(SEAL, lambda seal: [path.name for path in seal.parent.iterdir()])
"""All that is in such a folder is ours, even where the seal is damaged: it lies in this program's own cache."""
KEPT = 8
"""Models that are kept; of more, the one that was not used for longest goes."""

log = logging.getLogger(__name__)
T = TypeVar("T")


def compiled_folder(library: str, parts: Sequence[str]) -> Path:
    """Where the compiled form of a model is kept: `parts` is all that it depends on, the machine included."""
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return cache_folder(library) / key[:32]


def compiled(folder: Path | None, compile_with: Callable[[str], T]) -> T:
    """What `compile_with` makes, given the folder that its library may read from and write to, or "" for none.

    A folder that is damaged, incomplete or cannot be written costs the time of compiling, and no result; without
    `folder` nothing is kept. Raises what `compile_with` raises.
    """
    if folder is None:
        return compile_with("")
    if _whole(folder):
        with suppress(OSError):
            os.utime(folder)
        return compile_with(str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    made: list[T] = []
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_folder(folder, COMPILED) as fresh:
            made.append(compile_with(str(fresh)))
            hashes = {path.name: sha256(path) for path in fresh.iterdir()}
            (fresh / SEAL).write_text(json.dumps(hashes), encoding="utf-8")
        _forget_oldest(folder.parent)
    except (WriteError, InputError, OSError) as error:
        log.info("%s; the compiled model is not kept", error)
    except RuntimeError:  # the library's own: it may be the folder, and if not, it comes again
        made.clear()
    return made[0] if made else compile_with("")


def _whole(folder: Path) -> bool:
    """Whether the folder holds the files that were put there, unchanged, and no others."""
    try:
        hashes = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        there = {path.name: sha256(path) for path in folder.iterdir() if path.name != SEAL}
    except (OSError, ValueError):
        return False
    return bool(there) and there == hashes


def _forget_oldest(root: Path) -> None:
    folders = [path for path in root.iterdir() if (path / SEAL).is_file()]
    for path in sorted(folders, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
