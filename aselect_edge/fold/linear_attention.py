"""What Sana and its autoencoder share: attention that is linear in the tokens, and a gated depthwise convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.fold.algebra import convolution
from aselect_edge.fold.parts import plain

EPS = 1e-15
"""diffusers' constant below the quotient, where a query has no positive channel."""
SCALE = 2.0**40
"""Of keys and of EPS, so that the quotient is the same: those who optimise graphs take 1e-15 for zero and drop it, and
the sums over all tokens are far out of FP16's range, so that they stay in float32 as diffusers has them."""


def attend_linearly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """relu(q)·(relu(k)ᵀ·v) / (relu(q)·sum of relu(k)), for q, k, v (…, T, d): one d x d product, none of T x T."""
    kind = v.dtype
    q, k, v = q.relu().float(), k.relu().float() * SCALE, v.float()
    mixed = q @ (k.transpose(-2, -1) @ v)
    total = q @ k.sum(-2, keepdim=True).transpose(-2, -1)  # (…, T, 1)
    return (mixed / (total + EPS * SCALE)).to(kind)


class LinearAttention(nn.Module):
    """q, k, v (N, T, D) -> (N, T, D), head by head."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.unflatten(2, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))  # (N, heads, T, d)
        return attend_linearly(q, k, v).transpose(1, 2).flatten(2)


class GatedConvolution(nn.Module):
    """diffusers' `GLUMBConv` without its norm and its skip: (N, D, h, w) -> (N, D_out, h, w).

    `scale` and `shift` (D,) act on what comes in, `gate` (D_out,) on what goes out.
    """

    def __init__(
        self, conv: Any, scale: Tensor | None = None, shift: Tensor | None = None, gate: Tensor | None = None
    ) -> None:
        super().__init__()
        first, last = conv.conv_inverted, conv.conv_point
        weight, bias = plain(first)
        if scale is not None and shift is not None:
            bias = bias + weight[:, :, 0, 0] @ shift.double()
            weight = weight * (1 + scale.double())[:, None, None]
        self.widen = convolution(weight, bias)
        self.depthwise = _depthwise(conv.conv_depth)
        out = last.weight.detach().double()
        self.narrow = convolution(out if gate is None else out * gate.double()[:, None, None, None])
        self.silu = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.depthwise(self.silu(self.widen(x))).chunk(2, dim=1)
        return self.narrow(value * self.silu(gate))


def _depthwise(conv: nn.Conv2d) -> nn.Conv2d:
    copy = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, groups=conv.groups, device="meta")
    assert conv.bias is not None
    copy.weight, copy.bias = (nn.Parameter(torch.clone(part.detach())) for part in (conv.weight, conv.bias))
    return copy
