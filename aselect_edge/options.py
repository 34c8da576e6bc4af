"""The options of a backbone besides its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Options for loading a source; None takes the value of the source, or of the family's published models."""

    family: str | None = None
    """If the source does not show it, or shows it wrongly."""
    vae: str | None = None
    """Folder, file or hub id of the autoencoder, instead of the pipeline's."""
    num_heads: int | None = None
    """Attention heads of a single file of a width that was never published."""
    condition: str | Path | Mapping[str, Any] | None = None
    """The empty prompt's embeddings, or their safetensors file, instead of running text encoders."""
    label: int | None = None
    """The class to condition on, instead of on none."""
    revision: str | None = None
    """Of a hub id."""
    sit_time: str | None = None
    """The model's time input, `sigma` or `1-sigma`, for a SiT-like file."""
    sit_path: str | None = None
    """Its path: `linear`, `cosine` or `vp`."""

    def given(self, *names: str) -> dict[str, object]:
        """The options of these names, or all; of a condition, which may be tensors, whether there is one."""
        found = {**vars(self), "condition": self.condition is not None}
        return {name: found[name] for name in names or found}
