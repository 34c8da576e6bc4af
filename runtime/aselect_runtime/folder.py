"""An export folder: its record, and the model that the record vouches for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from aselect_runtime.errors import IntegrityError
from aselect_runtime.files import check_files, inside
from aselect_runtime.output_folder import FolderKind
from aselect_runtime.records import Manifest

MANIFEST = "manifest.json"
VERIFY = "verify.npz"
"""Frames and reference answers."""
WEIGHTS = ".data"
"""What the file of a large graph's weights has after the graph's own name."""


def listed_files(path: Path) -> list[str]:
    """The files that a manifest names, its engines among them; raises RecordError."""
    manifest = Manifest.load(path)
    return [*manifest.files, *(engine.file for engine in manifest.engines)]


EXPORT = FolderKind(MANIFEST, listed_files)
"""How an export folder is known that a later export may replace."""


def load_folder(folder: Path) -> tuple[Manifest, Path]:
    """The manifest of an export folder and the path of its model, which is whole and lies inside the folder.

    Raises RecordError (bad manifest) or IntegrityError (no hash of the model, another hash, a path that climbs out).
    """
    manifest = Manifest.load(folder / MANIFEST)
    path = inside(folder, manifest.model)
    # Large models keep their weights in a file beside the graph, named after it.
    hashes = {name: value for name, value in manifest.files.items() if name.startswith(manifest.model)}
    if manifest.model not in hashes:
        raise IntegrityError(f"{folder / MANIFEST}: got no hash of {manifest.model}, expected one; export it again")
    check_files(folder, hashes)
    return manifest, path


def graph_hash(hash_of: Callable[[str], str | None], name: str) -> str:
    """SHA-256 of a graph; of a large one, whose weights lie in a file named after it, over the hashes of both.

    `hash_of` gives the hash of a file of the graph's folder, None if there is no such file.
    """
    hashes = [found for part in (name, f"{name}{WEIGHTS}") if (found := hash_of(part)) is not None]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
