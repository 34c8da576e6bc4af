"""What this machine found out or compiled once and keeps: losing it costs time and no result."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/aselect-edge/NAME`, by default below `~/.cache`; it need not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "aselect-edge" / name
