"""The weights that a figure belongs to: `shipped` means another backbone after its weights are replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aselect_edge.backbones.loading import SHIPPED
from aselect_runtime.files import sha256


def weights_digest(backbone: str) -> str:
    """SHA-256 over the weights of a named backbone; empty if they are not on this disk."""
    path = SHIPPED if backbone == "shipped" else Path(backbone)
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest() if files else ""
