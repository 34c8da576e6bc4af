"""Measurements and compiled models that this machine can make again: their folder, and the software that made them."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from aselect_runtime import __version__


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/aselect-edge/NAME`, by default below `~/.cache`; the folder may not exist yet or be writable."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else _home() / ".cache") / "aselect-edge" / name


def software(*libraries: str) -> str:
    """This project's version and that of each library, by the name that it is imported by: numbers that were computed
    by others may differ.

    A build's name (`+cu130`) is left out: the CPU's and the GPU's build are one version.
    """
    versions = {"aselect": __version__, **{name: str(import_module(name).__version__) for name in libraries}}
    return " ".join(f"{name} {version.partition('+')[0]}" for name, version in versions.items())


def _home() -> Path:
    """This user's home, `/` as in Docker if there is none: a user id without an entry, and no HOME."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")
