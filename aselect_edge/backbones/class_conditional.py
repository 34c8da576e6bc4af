"""What DiT and the models after it share: classes as conditions, and tokens on a grid with a sine-cosine table."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.backbones.family import Affine, Backbone, Condition
from aselect_edge.backbones.inputs import class_condition, patch_grid
from aselect_edge.backbones.rotary_config import RotaryConfig


class ClassConditional(Backbone):
    """A family with these fields of its config, and with its blocks in `blocks`."""

    config: DiTConfig | RotaryConfig
    blocks: nn.ModuleList

    def condition(self, label: int | None = None, folder: Path | None = None) -> Condition:  # noqa: ARG002 - no prompt
        return class_condition(self.config.num_embeds_ada_norm, self.config.null_class, label)

    @property
    def affine(self) -> Affine | None:
        mean, std = self.config.latents_mean, self.config.latents_std
        return None if mean is None or std is None else Affine.normalising(mean, std)

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def width(self) -> int:
        return self.config.width

    @property
    def channels(self) -> int:
        return self.config.in_channels

    @property
    def side(self) -> int:
        return self.config.sample_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of an input of this size; raises InputError."""
        return patch_grid(self.config.patch_size, height, width)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position table (T, D) of a grid."""
        return sincos_positions(self.config.width, grid, self.config.base)


@lru_cache(maxsize=8)
def sincos_positions(width: int, grid: tuple[int, int], base_size: int) -> Tensor:
    """Sine-cosine position table (T, D) of a grid (rows, columns), row-major.

    Positions span [0, base_size) on both axes for any grid, and the first half of the channels encodes the
    column: both as in diffusers' `get_2d_sincos_pos_embed`.
    """
    frequency = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    halves = []
    for axis in (1, 0):
        position = torch.arange(grid[axis], dtype=torch.float32) / (grid[axis] / base_size)
        angle = torch.outer(position.double(), frequency)
        table = torch.cat([angle.sin(), angle.cos()], dim=1)  # (columns | rows, D/2)
        halves.append(table[None].expand(grid[0], -1, -1) if axis == 1 else table[:, None].expand(-1, grid[1], -1))
    return torch.cat(halves, dim=2).reshape(grid[0] * grid[1], width).float()
