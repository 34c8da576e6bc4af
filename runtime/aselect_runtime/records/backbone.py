"""Where a backbone comes from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from aselect_runtime.records.base import Frozen, Sha256


class BackboneSource(Frozen):
    """Where the backbone's weights are: in the bundle itself (`file`) or at a path or hub id (`source`)."""

    family: Literal["dit", "sit", "sd3", "pixart", "prx", "sana", "lightningdit", "jit"]
    config: dict[str, Any]
    source: str
    revision: str | None = None
    file: str | None = None
    vae: str | None = None
    """Path or hub id of a latent model's autoencoder, if it is not part of `source`."""
    schedule: dict[str, Any] | None = None
    """The fields of diffusers' scheduler_config.json that define the timesteps; None in bundles before 1.1."""
    label: Annotated[int, Field(ge=0)] | None = None
    """The class that the model is conditioned on; None for none."""
    condition: str | None = None
    """The file in the bundle with the conditioning input; None means the model's default."""
    weights_sha256: Sha256 | None = None
    """Of the weights up to the deepest tap's block, if they are not in the bundle; None in bundles before 1.3."""
    vae_sha256: Sha256 | None = None
    """Of the autoencoder, which is never in the bundle; None for a pixel-space model and in bundles before 1.3."""
