"""Folder for measurements and compiled models that this machine can make again: deleting it costs time only."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/aselect-edge/NAME`, by default below `~/.cache`; the folder may not exist yet or be writable."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else _home() / ".cache") / "aselect-edge" / name


def _home() -> Path:
    """This user's home, `/` as in Docker if there is none: a user id without an entry, and no HOME."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")
