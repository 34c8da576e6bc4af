"""Resume an interrupted scan: its running sums, in a file next to the result."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from aselect_runtime.files import atomic_write

EVERY = 20.0
"""Minimum seconds between two writes."""


@dataclass
class Store:
    """A file of tensors that belongs to one scan, identified by `key`; does nothing without a path.

    A file of another scan is not resumed; the first `keep` overwrites it.
    """

    path: Path | None = None
    key: str = ""
    _written: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Tensor]:
        """The tensors of this scan's last `keep`; empty if there are none, or they belong to another scan."""
        if self.path is None or not self.path.is_file():
            return {}
        try:
            with safe_open(self.path, framework="pt") as tensors:
                if (tensors.metadata() or {}).get("scan") != self.key:
                    return {}
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError):
            return {}  # files are written atomically, so this one is foreign; the scan starts over

    def keep(self, tensors: dict[str, Tensor]) -> None:
        """Write the tensors atomically, at most once per minimum interval."""
        if self.path is None or time.monotonic() - self._written < EVERY:
            return
        atomic_write(self.path, save(tensors, metadata={"scan": self.key}))
        self._written = time.monotonic()

    def discard(self) -> None:
        """Remove the file when the scan is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def scan_key(**facts: object) -> str:
    """The facts that identify a scan, as canonical JSON."""
    return json.dumps(facts, sort_keys=True, default=str)
