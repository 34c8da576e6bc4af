"""Measurements and compiled models that this machine can make again: their folder, and the software that made them."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/aselect-edge/NAME`, by default below `~/.cache`; the folder may not exist yet or be writable."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else _home() / ".cache") / "aselect-edge" / name


def software(*packages: str) -> str:
    """The version of each package, by the name that it is imported by: another one may compute other numbers.

    A build's name (`+cu130`) is left out: the CPU's and the GPU's build are one version.
    """
    return " ".join(f"{name} {str(import_module(name).__version__).partition('+')[0]}" for name in packages)


def _home() -> Path:
    """This user's home, `/` as in Docker if there is none: a user id without an entry, and no HOME."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")
