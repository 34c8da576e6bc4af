"""Folder for measurements and compiled models that this machine can make again: deleting it costs time only."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/aselect-edge/NAME`, by default below `~/.cache`; the folder may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "aselect-edge" / name
