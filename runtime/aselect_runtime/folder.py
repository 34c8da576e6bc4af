"""Reading an export folder: its manifest, and its model, whose hash the manifest lists."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path

from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import check_files, inside
from aselect_runtime.output_folder import FolderKind
from aselect_runtime.records import Manifest

MANIFEST = "manifest.json"
BUNDLE = "bundle.json"
"""What training writes, and a device cannot run."""
VERIFY = "verify.npz"
"""Verification frames and the reference outputs for them."""
WEIGHTS = ".data"
"""Suffix of the file with a large graph's weights, after the graph's file name."""


def listed_files(path: Path) -> list[str]:
    """The files that a manifest lists, including its engines; raises RecordError."""
    manifest = Manifest.load(path)
    return [*manifest.files, *(engine.file for engine in manifest.engines)]


EXPORT = FolderKind(MANIFEST, listed_files)
"""How a folder is recognised as an export that a later export may replace."""


def load_folder(folder: Path) -> tuple[Manifest, Path]:
    """The manifest of an export folder and the path of its model, whose hash was checked.

    Raises InputError (no folder, no export folder, a bundle), RecordError (bad manifest) or IntegrityError (no hash,
    another hash, a path that leads out of the folder).
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder, expected an export folder, which aselect-export writes; check the path"
        )
    if not (folder / MANIFEST).exists() and (folder / BUNDLE).is_file():
        raise InputError(
            f"{folder}: got a bundle, which aselect-train writes, expected an export folder; run "
            f"{shlex.join(['aselect-export', '--model', str(folder), '--out', f'{folder}-exported'])} and give that"
        )
    if not (folder / MANIFEST).exists():
        raise InputError(
            f"{folder}: got a folder without {MANIFEST}, expected an export folder, which aselect-export writes; check "
            "the path"
        )
    manifest = Manifest.load(folder / MANIFEST)
    path = inside(folder, manifest.model)
    # Large models keep their weights in a file next to the graph, named after it.
    hashes = {name: value for name, value in manifest.files.items() if name.startswith(manifest.model)}
    if manifest.model not in hashes:
        raise IntegrityError(f"{folder / MANIFEST}: got no hash of {manifest.model}, expected one; export it again")
    check_files(folder, hashes)
    return manifest, path


def graph_hash(hash_of: Callable[[str], str | None], name: str) -> str:
    """SHA-256 of a graph's file; if its weights are in a second file, SHA-256 over the hashes of both.

    `hash_of` returns the hash of a file in the graph's folder, None if there is no such file.
    """
    hashes = [found for part in (name, f"{name}{WEIGHTS}") if (found := hash_of(part)) is not None]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
