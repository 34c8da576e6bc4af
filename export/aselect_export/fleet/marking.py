"""The record that identifies a folder of the fleet formats: the model's manifest, with the files of that folder."""

from __future__ import annotations

from pathlib import Path

from aselect_runtime.files import sha256
from aselect_runtime.records import Manifest


def mark(folder: Path, marker: str, manifest: Manifest) -> None:
    """Write the record into a folder whose other files are complete."""
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest.model_copy(update={"files": files, "engines": ()}).save(folder / marker)
