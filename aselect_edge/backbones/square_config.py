"""What the configurations of all Diffusion Transformers that are conditioned on a class have in common."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from pydantic import Field

from aselect_edge.backbones.limits import Count, Depth


@dataclass(frozen=True)
class SquareConfig:
    """A transformer trained on squares of `sample_size`, with diffusers' names."""

    num_attention_heads: Count
    attention_head_dim: Count
    in_channels: Count
    num_layers: Depth
    sample_size: Count
    patch_size: Count
    num_embeds_ada_norm: Count
    _: KW_ONLY
    null_class: bool = True
    """Whether the label table ends with the class "no class"."""
    qk_norm: bool = False
    """Whether queries and keys are normalised head by head, by a norm with weights."""
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Mean and deviation per channel of the autoencoder's latents, if the model normalises them with these."""

    @property
    def width(self) -> int:
        """D, channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def base(self) -> int:
        """Tokens on a side of the square that the model was trained on."""
        return self.sample_size // self.patch_size
