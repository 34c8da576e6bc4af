"""The options of a backbone besides its source, and timesteps and components that are given as text or as a list."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from aselect_runtime.errors import InputError
from aselect_runtime.options import choice, parse_list
from aselect_runtime.records import COMPONENTS, Component


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


def parse_timesteps(given: str | Sequence[float]) -> list[float]:
    """The timesteps of a list, or of a text such as `0,50,100`; raises InputError for anything but finite numbers."""
    try:
        numbers = [float(part) for part in given.split(",")] if isinstance(given, str) else list(given)
    except ValueError:
        numbers = []
    if not numbers or not all(isinstance(t, Real) and not isinstance(t, bool) and math.isfinite(t) for t in numbers):
        raise InputError(
            f"got the timesteps {given!r}, expected numbers such as 0,50,100; correct them", parameter="timesteps"
        )
    return numbers


def parse_components(given: str | Sequence[str]) -> list[Component]:
    """The components of a list, or of a text such as `query,mlp`; raises InputError for unknown ones and for none."""
    parts = parse_list(given) if isinstance(given, str) else given
    if not parts:
        raise InputError(
            f"got the components {given!r}, expected at least one of {', '.join(COMPONENTS)}; leave the option out for "
            "all of them",
            parameter="components",
        )
    return [choice(part, COMPONENTS, "components") for part in parts]
