"""Read the record of a bundle folder and check its files; this module does not interpret their contents."""

from __future__ import annotations

from pathlib import Path

from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import check_files
from aselect_runtime.records import Bundle

BUNDLE = "bundle.json"
"""The file that makes a folder a bundle."""
SELECTION, HEAD = "selection.json", "head.safetensors"


def read_bundle(path: Path) -> Bundle:
    """The record of a bundle folder whose files are all present and intact.

    Raises InputError (no such folder, or no bundle), RecordError (bad record) or IntegrityError (missing, corrupt or
    unlisted file).
    """
    if not (path / BUNDLE).exists():
        got = f"got a folder without {BUNDLE}" if path.is_dir() else "no such folder"
        raise InputError(f"{path}: {got}, expected a bundle (the folder that aselect-train writes); check the path")
    record = Bundle.load(path / BUNDLE)
    needed = [SELECTION, HEAD, *filter(None, (record.backbone.file, record.backbone.condition))]
    if record.distilled is not None:
        needed.append(record.distilled.file)
    unlisted = [name for name in needed if name not in record.files]
    if unlisted:
        raise IntegrityError(f"{path / BUNDLE}: got no hash of {unlisted[0]}, expected one; train the bundle again")
    check_files(path, record.files)
    return record
