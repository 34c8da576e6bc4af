"""A package's verbs, imported when they are first asked for: `--help` then does not wait for OpenCV or torch.

Used instead of lazy_loader, which types what it gives as Any too, and would be one more package on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The module `__getattr__` of a package whose names come from the submodules that `homes` gives.

    Type checkers see the names through imports under `TYPE_CHECKING`.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find
