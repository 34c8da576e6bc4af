"""The configuration of a DiT with rotary positions, and the angles of RoPE."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from aselect_edge.backbones.limits import Count, check_positions
from aselect_edge.backbones.square_config import SquareConfig
from aselect_runtime.errors import InputError


@dataclass(frozen=True)
class RotaryConfig(SquareConfig):
    """The fields that decide shapes and formulas. Fields that DiT has too have diffusers' names."""

    attention_head_dim: Annotated[int, Field(ge=4, le=65536, multiple_of=4)]
    mlp_width: Count
    """Channels inside the MLP, after the gate if there is one."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm with weights, or LayerNorm without."""
    gated: bool = True
    """Whether the MLP is SwiGLU, or DiT's with the tanh GELU."""
    shift: bool = True
    """Whether adaLN has a shift in addition to the scale."""
    bottleneck: Count | None = None
    """Channels between the two layers of JiT's patch embedding; None for one layer."""
    context_tokens: Annotated[int, Field(ge=0, le=65536)] = 0
    """Number of class tokens that JiT puts before the image tokens."""
    context_start: Annotated[int, Field(ge=0, le=65536)] = 0
    """The first block that has them."""

    @classmethod
    def from_json(cls, family: str, config: dict[str, Any]) -> Self:
        """Raises InputError for invalid values and unknown keys."""
        known = {field.name for field in fields(cls)}
        # `tied` is DiT's field for one conditioning shared by all blocks, which is always so here.
        unknown = sorted(config.keys() - known - {"_class_name", "tied"})
        if unknown:
            raise InputError(
                f"{family} config: got {', '.join(unknown)}, expected only {', '.join(sorted(known))}; "
                "this variant is not supported"
            )
        try:
            found = TypeAdapter(cls).validate_python({key: config[key] for key in known & config.keys()})
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            name = ".".join(map(str, fault["loc"])) or "values"
            raise InputError(
                f"{family} config: got {name} = {fault['input']!r}, expected a valid value ({fault['msg']}); change it"
            ) from error
        check_positions(family, found.sample_size, found.patch_size, found.width)
        return found


@lru_cache(maxsize=8)
def rotary_angles(channels: int, grid: tuple[int, int], base: int) -> Tensor:
    """Angles (T, d/2) by which RoPE rotates the pairs of a head's d = `channels` channels, row-major, float64.

    The first d/4 pairs rotate with the row, the others with the column, pair i of them by 10000^(-2i/(d/2)) per token.
    Positions span [0, base) on both axes for any grid.
    """
    frequency = 10000.0 ** (-2 * torch.arange(channels // 4, dtype=torch.float64) / (channels // 2))
    rows, columns = (
        torch.outer(torch.arange(count, dtype=torch.float64) * base / count, frequency) for count in grid
    )  # (rows, d/4), (columns, d/4)
    over_rows = rows[:, None].expand(-1, grid[1], -1)
    return torch.cat([over_rows, columns[None].expand(grid[0], -1, -1)], dim=2).flatten(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels of x (N, heads, T, d) by angles (T, d/2)."""
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=4).flatten(3)
