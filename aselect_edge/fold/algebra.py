"""The identities of the fold, in float64, and the input and output layers shared by all folded families.

- adaLN before a linear layer: W·(n·(1 + scale) + shift) + b = (W·diag(1 + scale))·n + (W·shift + b);
- a gate after a linear layer: g·(W·h + b) = (diag(g)·W)·h + g·b;
- a 1x1 convolution after another convolution: W2·(W1·x) + b = (W2·W1)·x + b;
- the input: with x0 = gain·value + offset, embed(alpha·x0 + sigma·eps) = alpha·gain·W·value + constant, and the
  constant (bias, offset, noise) joins the position embedding. A reversed channel order is folded into W too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from aselect_edge.fold.spec import FoldSpec


def after_adaln(linear: nn.Linear, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias (float64) of a linear layer applied to the plain LayerNorm output; scale and shift (D,)."""
    weight = linear.weight.to(torch.float64, copy=True)
    bias = weight @ shift.double()
    weight *= 1 + scale.double()  # in place: these are the largest matrices
    return weight, bias if linear.bias is None else bias + linear.bias.double()


def gated(linear: nn.Linear, gate: Tensor) -> nn.Linear:
    """A linear layer merged with the gate (D_out,) that follows it."""
    weight, gate = linear.weight.to(torch.float64, copy=True), gate.double()
    weight *= gate[:, None]
    bias = torch.zeros_like(gate) if linear.bias is None else linear.bias.double()
    return dense(weight, gate * bias)


def dense(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A float32 linear layer with these weights."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return linear


def convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...] = (1, 1),
    padding: str | tuple[int, ...] = (0, 0),
) -> nn.Conv2d:
    """A convolution of float32 with these weights (out, in, rows, columns)."""
    outputs, inputs, rows, columns = weight.shape
    steps, sides = cast("tuple[int, int]", stride), cast("tuple[int, int]", padding)
    conv = nn.Conv2d(inputs, outputs, (rows, columns), steps, sides, bias=bias is not None, device="meta")
    conv.weight = nn.Parameter(weight.float())
    conv.bias = None if bias is None else nn.Parameter(bias.float())
    return conv


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> nn.Linear:
    """Several linear layers with the same input as one; each part is (weight, bias)."""
    if len(parts) == 1:
        return dense(*parts[0])
    return dense(torch.cat([weight.float() for weight, _ in parts]), torch.cat([bias.float() for _, bias in parts]))


def composed(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Two convolutions as one, float64: the second is 1x1, and the first has no padding and no bias."""
    weight = torch.einsum("oi,ichw->ochw", second.weight.double()[:, :, 0, 0], first.weight.double())
    sizes: tuple[Any, Any] = (first.kernel_size, first.stride)
    conv = nn.Conv2d(first.in_channels, len(weight), *sizes, device="meta")
    conv.weight = nn.Parameter(weight)
    conv.bias = None if second.bias is None else nn.Parameter(second.bias.double())
    return conv


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float = 1.0) -> Tensor:
    """Attention (N, T, D) over keys (N, S, D), as separate operations: fused exports silently produced wrong engines.

    `scale` is 1 if 1/sqrt(d) is already in the query's weights.
    """
    q, k, v = (z.unflatten(2, (heads, -1)).transpose(1, 2) for z in (q, k, v))  # (N, heads, T, D/heads)
    if scale != 1.0:
        q = q * scale
    weights = (q @ k.transpose(2, 3)).softmax(dim=3)
    return (weights @ v).transpose(1, 2).flatten(2)


class FoldedEmbedding(nn.Module):
    """values (N, C, h, w) -> tokens (N·K, T, D), noise level, bias and positions included; K draws of the noise."""

    positions: Tensor

    def __init__(self, embed: nn.Conv2d, positions: Tensor, spec: FoldSpec) -> None:
        """`embed` is the patch embedding, `positions` (1, T, D) or (T, D)."""
        super().__init__()
        noise, eps, affine = spec.noise, spec.eps, spec.affine
        weight, (gain, offset) = embed.weight.double(), affine.columns()
        folded = weight * (noise.alpha * gain)
        self.conv = convolution(folded.flip(1) if affine.reverse else folded, stride=embed.stride)
        constant = noise.alpha * offset + noise.sigma * eps.double()
        bias = None if embed.bias is None else embed.bias.double()
        constant = nn.functional.conv2d(constant, weight, bias, stride=embed.stride)
        table = positions.double() + constant.flatten(2).transpose(1, 2)
        self.register_buffer("positions", table.float())  # (K, T, D)
        self.draws = len(eps)

    def forward(self, values: Tensor) -> Tensor:
        tokens = self.conv(values).flatten(2).transpose(1, 2)  # (N, T, D)
        if self.draws == 1:
            return tokens + self.positions
        return (tokens[:, None] + self.positions).flatten(0, 1)

    def mean(self, features: Tensor) -> Tensor:
        """(N·K, …) -> (N, …), the mean over the draws."""
        return features if self.draws == 1 else features.unflatten(0, (-1, self.draws)).mean(1)
