"""Lazy imports of a package's public names: `--help` then does not wait for OpenCV or torch.

Used instead of lazy_loader, which would be one more dependency on every device and is typed no better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The module-level `__getattr__` of a package; `homes` maps each public name to the submodule that defines it.

    Type checkers find the names through imports under `TYPE_CHECKING`.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find
