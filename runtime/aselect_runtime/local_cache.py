"""Measurements and compiled models that this machine can make again: their folder, and the software that made them."""

from __future__ import annotations

import hashlib
import os
from importlib import import_module
from pathlib import Path

OWN = "aselect_"
"""What the names of this project's packages begin with."""


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/aselect-edge/NAME`, by default below `~/.cache`; the folder may not exist yet or be writable."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else _home() / ".cache") / "aselect-edge" / name


def software(*packages: str) -> str:
    """What each package is, by the name that it is imported by: another one may compute other numbers.

    That is its version, without a build's name (`+cu130`): the CPU's and the GPU's build are one. Of this project's own
    packages it is a digest of their modules: between two releases the version says nothing about the code.
    """
    return " ".join(f"{name} {_sources(name) if name.startswith(OWN) else _version(name)}" for name in packages)


def _version(package: str) -> str:
    return str(import_module(package).__version__).partition("+")[0]


def _sources(package: str) -> str:
    """SHA-256 of a package's modules and their names."""
    folder = Path(str(import_module(package).__file__)).parent
    digest = hashlib.sha256()
    for module in sorted(folder.rglob("*.py")):
        digest.update(f"{module.relative_to(folder)}\0".encode() + module.read_bytes() + b"\0")
    return digest.hexdigest()


def _home() -> Path:
    """This user's home, `/` as in Docker if there is none: a user id without an entry, and no HOME."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")
