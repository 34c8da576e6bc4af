"""PixArt-alpha and PixArt-Sigma (arXiv 2310.00426, 2403.04692): diffusers' own `PixArtTransformer2DModel`, tapped.

A block is self-attention, cross-attention to the prompt and an MLP. All components are those of self-attention and
the MLP; cross-attention is not a named component. The modulation is one shared MLP of the timestep plus a table of
each block (adaLN-single). PixArt-alpha at 1024 px also gets the image's size and aspect ratio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn

from aselect_edge.backbones.family import Condition, expand, of_block
from aselect_edge.backbones.limits import check_positions
from aselect_edge.backbones.noise import DIT_SCHEDULE, Schedule, read_schedule
from aselect_edge.backbones.prompt import prompt_condition
from aselect_edge.backbones.wrapped import Wrapped, check_config, watched
from aselect_runtime.errors import InputError
from aselect_runtime.records import Component, Tap

_COUNTS = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "num_layers",
    "cross_attention_dim",
    "sample_size",
    "patch_size",
)
_ALLOWED = {
    "norm_type": ("ada_norm_single",),
    "activation_fn": ("gelu-approximate",),
    "norm_elementwise_affine": (False,),
    "attention_type": ("default", None),
    "dropout": (0,),
}
_STRIDE = 8
"""Pixels per latent of every PixArt's autoencoder, on each axis: the size that alpha is conditioned on is in pixels."""


class PixArt(Wrapped):
    """The reference model of PixArt; its condition is `prompt` (1, L, C) and `mask` (1, L), 1 for a valid token."""

    family: ClassVar[str] = "pixart"
    unread: ClassVar[tuple[str, ...]] = (r"proj_out\.", r"caption_projection\.y_embedding$")
    """The output layer, and the embedding of dropped prompts, which older diffusers versions saved."""

    @classmethod
    def from_json(cls, config: dict[str, Any], depth: int | None = None) -> PixArt:
        check_config("PixArt", config, _COUNTS, _ALLOWED)
        width = config.get("num_attention_heads", 16) * config.get("attention_head_dim", 72)
        check_positions("PixArt", config.get("sample_size", 128), config.get("patch_size", 2), width)
        backbone = cls(PixArtTransformer2DModel, config, depth)
        if backbone.model.use_additional_conditions and backbone.width % 3:
            raise InputError(
                f"PixArt config: got the width {backbone.width}, expected a multiple of 3 where "
                "use_additional_conditions is set; check config.json"
            )
        return backbone

    def __init__(self, kind: Any, config: dict[str, Any], depth: int | None) -> None:
        super().__init__(kind, config, depth)
        embed = self.patch_embed
        if embed.pos_embed is not None:  # computed, never stored in a checkpoint
            embed.pos_embed = self.positions((embed.height, embed.width))

    @property
    def patch_embed(self) -> Any:
        """diffusers' `PatchEmbed`: the convolution `proj`, and the position table."""
        return self.model.pos_embed

    @property
    def embedding(self) -> nn.Module:
        return self.patch_embed.proj

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        return read_schedule(DIT_SCHEDULE if config is None else config)  # PixArt was trained with DiT's schedule

    def condition(self, label: int | None = None, folder: Path | None = None) -> Condition:
        condition = prompt_condition(self.family, self.model.config, label, folder)
        self.check_condition(condition)
        return condition

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position table (1, T, D) of a grid, float32: recomputed with diffusers' formula, which scales both axes."""
        embed = self.patch_embed
        table = get_2d_sincos_pos_embed(
            self.width,
            grid,
            base_size=embed.base_size,
            interpolation_scale=embed.interpolation_scale,
            device=torch.device("cpu"),
            output_type="pt",
        )
        return table.float()[None]

    def tables(self) -> dict[str, Tensor]:
        side = self.side // int(self.model.config.patch_size)
        return {"pos_embed.pos_embed": self.positions((side, side))}

    def modulation(self, timestep: Tensor, size: tuple[int, int]) -> Tensor:
        """The modulation (N, 6·D) that every block adds its table to, for an input of `size` (h, w)."""
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.model.use_additional_conditions:
            pixels = torch.tensor([size], dtype=torch.float32, device=timestep.device) * _STRIDE
            sizes["resolution"] = pixels.expand(len(timestep), 2)
            sizes["aspect_ratio"] = (pixels[:, :1] / pixels[:, 1:]).expand(len(timestep), 1)
        dtype = self.model.adaln_single.linear.weight.dtype
        modulation, _ = self.model.adaln_single(timestep, sizes, batch_size=len(timestep), hidden_dtype=dtype)
        return modulation

    def caption(self, prompt: Tensor) -> Tensor:
        """Prompt embeddings (N, L, C) as the input of cross-attention."""
        projection = self.model.caption_projection
        return prompt if projection is None else projection(prompt)

    def walk(
        self, x: Tensor, timestep: Tensor, condition: Condition, taps: Iterable[Tap] | None = None
    ) -> Iterator[tuple[Tap, Tensor]]:
        wanted = self.wanted(taps)
        grid = self.grid(*x.shape[2:])
        self.check_condition(condition)
        batch = expand(condition, len(x), x.device)
        h = self.patch_embed(x)  # (N, T, D)
        modulation = self.modulation(timestep, (x.shape[2], x.shape[3]))
        caption = self.caption(batch["prompt"])
        bias = (1 - batch["mask"].to(h))[:, None] * -10000.0  # (N, 1, L), as in diffusers
        given: dict[str, Any] = {
            "encoder_hidden_states": caption,
            "encoder_attention_mask": bias,
            "timestep": modulation,
        }
        given |= self.grid_arguments(grid)
        for index in range(1 + max(tap.block for tap in wanted)):
            block = self.blocks[index]
            with self.held(block):
                h, read = _watch(block, h, given | self.grid_arguments(grid), of_block(index, wanted))
            yield from ((Tap(block=index, component=component), value) for component, value in read.items())

    def check_condition(self, condition: Condition) -> None:
        config = self.model.config
        channels = config.caption_channels or config.cross_attention_dim
        length = condition["prompt"].shape[1] if "prompt" in condition and condition["prompt"].ndim == 3 else None
        self.check(condition, {"prompt": (1, None, channels), "mask": (1, length)})
        if not condition["mask"].any():
            raise InputError("condition: got a mask without a valid token, expected at least one; compute it again")

    def grid_arguments(self, grid: tuple[int, int]) -> dict[str, int]:  # noqa: ARG002 - Sana's blocks need it
        """Arguments of a block in addition to the prompt and the modulation."""
        return {}


def _watch(
    block: nn.Module, x: Tensor, given: Mapping[str, Any], components: frozenset[Component]
) -> tuple[Tensor, dict[Component, Tensor]]:
    """The tokens after `block(x, **given)` and its wanted components (N, T, D).

    The block has `attn1`, `ff` and a `scale_shift_table` that is added to `given["timestep"]` (N, 6·D).
    """
    attn: Any = block.attn1
    table: Any = block.scale_shift_table
    feedforward: Any = block.ff
    places = {"query": attn.to_q, "key": attn.to_k, "value": attn.to_v}
    with watched(attn=attn, mlp=feedforward, **places) as seen:
        out = block(x, **given)
    result = {name: result for name, (_, result) in seen.items()}
    gate = table[2] + given["timestep"].unflatten(1, (6, -1))[:, 2]
    mlp = result["mlp"]
    read: dict[Component, Tensor] = {
        "hidden": x,
        "adaln": seen["attn"][0][0],
        "query": result["query"],
        "key": result["key"],
        "value": result["value"],
        "attn": result["attn"],
        "attn_gated": gate[:, None] * result["attn"],
        "mlp": mlp if mlp.ndim == 3 else mlp.flatten(2).transpose(1, 2),  # Sana's is a map (N, D, rows, columns)
    }
    return out, {component: value for component, value in read.items() if component in components}
