"""Where an interrupted scan goes on: its running sums, in a file beside the result."""

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
"""Seconds between two writes, at least."""


@dataclass
class Store:
    """A file of tensors that belongs to one scan, told by `key`; does nothing without a path.

    What another scan left there is not resumed, and overwritten at the first `keep`.
    """

    path: Path | None = None
    key: str = ""
    _written: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Tensor]:
        """The tensors of this scan's last `keep`; nothing if there are none, or they are another scan's."""
        if self.path is None or not self.path.is_file():
            return {}
        try:
            with safe_open(self.path, framework="pt") as tensors:
                if (tensors.metadata() or {}).get("scan") != self.key:
                    return {}
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError):
            return {}  # half a file cannot come from us; the scan starts over

    def keep(self, tensors: dict[str, Tensor]) -> None:
        """Write the tensors atomically, if it is time."""
        if self.path is None or time.monotonic() - self._written < EVERY:
            return
        atomic_write(self.path, save(tensors, metadata={"scan": self.key}))
        self._written = time.monotonic()

    def discard(self) -> None:
        """Remove the file: the scan is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def scan_key(**facts: object) -> str:
    """What makes two scans the same, as canonical JSON."""
    return json.dumps(facts, sort_keys=True, default=str)
