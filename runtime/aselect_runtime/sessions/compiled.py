"""A cache of compiled models on disk, so that the next start need not compile; checked for damage before use."""

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
from aselect_runtime.files import naming, sha256
from aselect_runtime.local_cache import cache_folder
from aselect_runtime.output_folder import FolderKind, atomic_folder

SEAL = "sha256.json"
"""File with the hash of every file of a folder, because libraries do not detect damage in their compiled models."""
COMPILED = FolderKind(SEAL, lambda seal: [path.name for path in seal.parent.iterdir()])
"""All files of such a folder may be replaced, even if SEAL is damaged: it is in this program's cache."""
KEPT = 8
"""Maximum number of models in the cache; the least recently used are removed."""

log = logging.getLogger(__name__)
T = TypeVar("T")


def compiled_folder(library: str, parts: Sequence[str]) -> Path:
    """The cache folder of a compiled model; `parts` is all that it depends on, including the machine."""
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return cache_folder(library) / key[:32]


def compiled(folder: Path | None, compile_with: Callable[[str], T]) -> T:
    """The result of `compile_with`, which is called with a folder that its library reads and writes, or "" for none.

    If the folder is damaged, incomplete or not writable, the model is compiled again; without `folder` nothing is
    stored. Raises what `compile_with` raises.
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
        with naming(folder.parent):
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_folder(folder, COMPILED) as fresh:
            made.append(compile_with(str(fresh)))
            hashes = {path.name: sha256(path) for path in fresh.iterdir()}
            (fresh / SEAL).write_text(json.dumps(hashes), encoding="utf-8")
        _forget_oldest(folder.parent)
    except (WriteError, InputError, OSError) as error:
        log.info("%s; the compiled model is not stored", error)
    except RuntimeError:  # an error of the library: if the folder is not its cause, compiling without it raises again
        made.clear()
    return made[0] if made else compile_with("")


def _whole(folder: Path) -> bool:
    """Whether the folder contains exactly the files listed in SEAL, unchanged."""
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
