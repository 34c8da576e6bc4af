"""LightningDiT (arXiv 2501.01423): DiT with RoPE, SwiGLU and RMSNorm on the latents of VA-VAE.

Straight path as in SiT, fed t = 1 - sigma, which is 1 for a clean image. Latents are (z - mean) / std per channel,
independent of the autoencoder's scaling: mean and std come with the weights, as latents_stats.pt.
"""

from __future__ import annotations

from typing import Any, ClassVar

from aselect_edge.backbones.noise import Schedule
from aselect_edge.backbones.rotary import RotaryDiT
from aselect_edge.backbones.sit import PathSchedule


class LightningDiT(RotaryDiT):
    """The reference model of LightningDiT."""

    family: ClassVar[str] = "lightningdit"

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:  # noqa: ARG003 - the path is fixed
        return PathSchedule()
