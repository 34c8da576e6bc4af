"""Shared parts of the folded blocks of several families: the pass through the blocks, their length, the MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aselect_edge.fold.algebra import FoldedEmbedding, after_adaln, gated, joined
from aselect_edge.fold.spec import Folded
from aselect_runtime.records import Component, Tap

STAGE: dict[Component, int] = {
    "hidden": 0,
    "adaln": 1,
    "query": 2,
    "key": 2,
    "value": 2,
    "attn": 3,
    "attn_gated": 3,
    "mlp": 4,
}
"""Component -> the stage of its block that computes it."""
WHOLE = 5
PROJECTIONS: tuple[Component, ...] = ("query", "key", "value")

Part = tuple[Tensor, Tensor]
"""Weight and bias of a linear layer, to be merged with others."""


class OneStream(Folded):
    """Folded families whose blocks pass on only image tokens: `block(x)` returns the next x and tapped components."""

    embed: FoldedEmbedding

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        x = self.embed(values)  # (N·K, T, D)
        seen: dict[Tap, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x, read = block(x)
            seen |= {Tap(block=index, component=component): value for component, value in read.items()}
        return tuple(self.embed.mean(seen[tap]).unflatten(1, self.grid) for tap in self.taps)


def scaled(part: Part, factor: float) -> Part:
    """The linear layer times a factor."""
    return (part[0] * factor, part[1] * factor)


def plain(linear: nn.Linear) -> Part:
    """Weight and bias (zero if there is none) of an unchanged linear layer, float64."""
    weight = linear.weight.double()
    return weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.double()


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) · weight over the last axis, in the form that ONNX Runtime fuses into one node."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight.float()), eps

    def forward(self, x: Tensor) -> Tensor:
        # In float32 even if x is not, as in LayerNorm: squares of large activations exceed FP16's range.
        root = (x.float().square().mean(dim=-1, keepdim=True) + self.eps).sqrt()
        return x / root.to(x.dtype) * self.weight


def bare_norm(norm: nn.Module) -> nn.Module:
    """A norm over the width in its deployed form: an RMSNorm with its weights, or a LayerNorm without."""
    if isinstance(norm, nn.RMSNorm):
        assert norm.eps is not None
        return RMSNorm(norm.weight, norm.eps)
    assert isinstance(norm, nn.LayerNorm)
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


class SwiGLU(nn.Module):
    """x (N, T, 2·H) -> silu(first half) · second half, (N, T, H)."""

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, dim=2)
        return nn.functional.silu(gate) * value


class FoldedMLP(nn.Module):
    """x (N, T, D) -> gate · MLP(adaLN(x)), for diffusers' `FeedForward` with the tanh GELU.

    With `bare`, the gate is left out, for a tap on the MLP's output before the gate.
    """

    def __init__(
        self, norm: nn.LayerNorm, feedforward: nn.Module, scale: Tensor, shift: Tensor, gate: Tensor, bare: bool = False
    ) -> None:
        super().__init__()
        activation, _dropout, last = feedforward.net  # type: ignore[misc]
        self.norm = nn.LayerNorm(len(gate), eps=norm.eps, elementwise_affine=False)
        self.widen = joined([after_adaln(activation.proj, scale, shift)])
        self.activation = nn.GELU(approximate="tanh")
        self.narrow = gated(last, torch.ones_like(gate) if bare else gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.activation(self.widen(self.norm(x))))  # type: ignore[no-any-return]
