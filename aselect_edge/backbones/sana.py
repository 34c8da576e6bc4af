"""Sana and Sana-1.5 (arXiv 2410.10629, 2501.18427): diffusers' own `SanaTransformer2DModel`, tapped.

PixArt's blocks, with linear attention among the image's tokens (ReLU in place of the softmax), an MLP that is a gated
convolution, and normalised prompt embeddings. Queries and keys may be normalised over all heads (1.5). There is no
position table where `interpolation_scale` is null: the convolutions tell the tokens where they are.

Noise: x = (1 - sigma)·x0 + sigma·eps, fed num_train_timesteps·sigma.
"""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import SanaTransformer2DModel
from torch import Tensor

from aselect_edge.backbones.limits import check_positions
from aselect_edge.backbones.noise import Schedule, read_flow_schedule
from aselect_edge.backbones.pixart import PixArt
from aselect_edge.backbones.wrapped import check_config
from aselect_runtime.errors import InputError

_COUNTS = (
    "in_channels",
    "num_attention_heads",
    "attention_head_dim",
    "num_layers",
    "num_cross_attention_heads",
    "cross_attention_head_dim",
    "cross_attention_dim",
    "caption_channels",
    "sample_size",
    "patch_size",
)
_ALLOWED = {
    "norm_elementwise_affine": (False,),
    "guidance_embeds": (False, None),
    "qk_norm": (None, "rms_norm_across_heads"),
    "timestep_scale": (1, None),
    "dropout": (0,),
}
"""Sana-Sprint is told a guidance scale, and runs along another path."""


class Sana(PixArt):
    """The reference; its condition is `prompt` (1, L, caption_channels) and `mask` (1, L), 1 where a token counts."""

    family: ClassVar[str] = "sana"
    output: ClassVar[tuple[str, ...]] = ("norm_out", "proj_out", "scale_shift_table")
    unread: ClassVar[tuple[str, ...]] = (r"proj_out\.", r"scale_shift_table$")

    @classmethod
    def from_json(cls, config: dict[str, Any], depth: int | None = None) -> Sana:
        check_config("Sana", config, _COUNTS, _ALLOWED)
        width = config.get("num_attention_heads", 70) * config.get("attention_head_dim", 32)
        check_positions("Sana", config.get("sample_size", 32), config.get("patch_size", 1), width)
        backbone = cls(SanaTransformer2DModel, config, depth)
        if backbone.model.config.cross_attention_dim != backbone.width:
            raise InputError(
                f"Sana config: got cross_attention_dim = {backbone.model.config.cross_attention_dim}, expected the "
                f"width {backbone.width}, heads times their dimension; check config.json"
            )
        return backbone

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        return read_flow_schedule(config, "Sana")

    @property
    def width(self) -> int:
        return int(self.model.config.num_attention_heads * self.model.config.attention_head_dim)

    @property
    def patch_embed(self) -> Any:
        """diffusers' `PatchEmbed`: the convolution `proj`, and the position table or None."""
        return self.model.patch_embed

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position table (1, T, D) of a grid, float32, as PixArt's; zeros (1, 1, D) where the model has none."""
        if self.patch_embed.interpolation_scale is None:
            return self.model.caption_norm.weight.new_zeros(1, 1, self.width)
        return super().positions(grid)

    def tables(self) -> dict[str, Tensor]:
        if self.patch_embed.interpolation_scale is None:
            return {}
        (table,) = super().tables().values()
        return {"patch_embed.pos_embed": table}

    def modulation(self, timestep: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002 - told no size
        """What every block adds its table to, (N, 6·D)."""
        embed = self.model.time_embed
        modulation, _ = embed(timestep, batch_size=len(timestep), hidden_dtype=embed.linear.weight.dtype)
        return modulation

    def caption(self, prompt: Tensor) -> Tensor:
        """Prompt embeddings (N, L, C) as cross-attention takes them, (N, L, D)."""
        return self.model.caption_norm(self.model.caption_projection(prompt))

    def grid_arguments(self, grid: tuple[int, int]) -> dict[str, int]:
        return {"height": grid[0], "width": grid[1]}
