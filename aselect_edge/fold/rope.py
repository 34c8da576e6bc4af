"""RoPE and head norms, folded: tables are constants, and a head's channels are in the cheapest order.

RoPE rotates pairs of neighbouring channels. Attention uses queries and keys only in inner products, which do not
change if both have their channels in another order. With the even channels of a head before the odd ones, the two
channels of a pair are half a head apart, and the rotation is x·cos + swapped halves·sin, with negative sines in the
first half. The projections' rows and the weights of head norms are put into that order. The softmax scale is merged
into the query's tables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aselect_edge.fold.parts import Part, head_norm


def halves(heads: int, channels: int) -> Tensor:
    """The even channels of each head before the odd ones: indices (heads·channels,)."""
    order = torch.cat([torch.arange(0, channels, 2), torch.arange(1, channels, 2)])
    return (order + channels * torch.arange(heads)[:, None]).flatten()


def reordered(part: Part, order: Tensor) -> Part:
    """A linear layer with its outputs in the order `order`."""
    return part[0][order], part[1][order]


class Heads(nn.Module):
    """Queries or keys (N, T, D) -> normalised per head if the model does so, rotated and scaled (N, T, D)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, norm: nn.Module, angles: Tensor, heads: int, scale: float = 1.0, plain: bool = False) -> None:
        """`norm` is the unfolded model's head norm; angles (T, d/2); `plain` input keeps the stored channel order."""
        super().__init__()
        self.heads, self.plain = heads, plain
        self.norm = head_norm(norm, order=halves(1, 2 * angles.shape[1]))
        cos, sin = angles.double().cos() * scale, angles.double().sin() * scale
        self.register_buffer("cos", torch.cat([cos, cos], dim=1)[:, None].float())  # (T, 1, d)
        self.register_buffer("sin", torch.cat([-sin, sin], dim=1)[:, None].float())

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (self.heads, -1))  # (N, T, heads, d)
        if self.plain:
            x = x.unflatten(3, (-1, 2)).transpose(3, 4).flatten(3)
        if self.norm is not None:
            x = self.norm(x)
        first, second = x.chunk(2, dim=3)
        return (x * self.cos + torch.cat([second, first], dim=3) * self.sin).flatten(2)
