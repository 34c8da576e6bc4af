"""Shared parts of the folded blocks of several families: the pass through the blocks, their length, the MLP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.backbones.family import of_block
from aselect_edge.fold.algebra import FoldedEmbedding, after_adaln, gated, joined
from aselect_edge.fold.spec import Folded, FoldSpec
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


def cuts(spec: FoldSpec) -> Iterator[tuple[int, frozenset[Component], int]]:
    """For each block up to the deepest tap: its index, the components that taps read, and its last stage."""
    for index in range(spec.deepest + 1):
        wanted = of_block(index, spec.taps)
        yield index, wanted, WHOLE if index < spec.deepest else max(STAGE[component] for component in wanted)


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


class CutBlock(nn.Module):
    """A block at a fixed condition, truncated after stage `end`, with the components that its taps read (`wanted`).

    A gate is folded into the layer before it, except where a tap reads that layer: the gate is then kept.
    """

    scale1: Tensor
    shift1: Tensor
    gate1: Tensor
    gate2: Tensor
    projections: list[Component]
    """Those of query, key and value that the block computes, in the order of `project`'s outputs."""
    project: nn.Module

    def __init__(self, wanted: frozenset[Component], end: int, heads: int) -> None:
        super().__init__()
        self.wanted, self.end, self.heads = wanted, end, heads

    def _take_norm(self, norm: nn.Module, scale: Tensor, shift: Tensor) -> None:
        self.norm1 = norm
        if "adaln" in self.wanted:
            self.register_buffer("scale1", (1 + scale).float())
            self.register_buffer("shift1", shift.float())

    def _take_out(self, out: nn.Linear, gate: Tensor) -> None:
        self.gated_attention = "attn" not in self.wanted
        self.out = gated(out, gate if self.gated_attention else torch.ones_like(gate))
        if not self.gated_attention and (self.end > STAGE["attn"] or "attn_gated" in self.wanted):
            self.register_buffer("gate1", gate.float())

    def _take_gate(self, gate: Tensor) -> Tensor:
        """The part of the MLP's gate that is folded into its last layer."""
        self.gated_mlp = "mlp" not in self.wanted
        if not self.gated_mlp and self.end == WHOLE:
            self.register_buffer("gate2", gate.float())
        return gate if self.gated_mlp else torch.ones_like(gate)

    def _normalise(self, x: Tensor, seen: dict[Component, Tensor]) -> Tensor:
        h: Tensor = self.norm1(x)
        if "adaln" in self.wanted:
            seen["adaln"] = h * self.scale1 + self.shift1
        return h

    def _begin(self, x: Tensor) -> tuple[dict[Component, Tensor], tuple[Tensor, ...]]:
        """The components of x (N, T, D) up to the projections, and the projections; () if the cut is before them."""
        seen: dict[Component, Tensor] = {"hidden": x}
        if self.end < STAGE["adaln"]:
            return seen, ()
        h = self._normalise(x, seen)
        if self.end < STAGE["query"]:
            return seen, ()
        parts = self.project(h).chunk(len(self.projections), dim=2)
        return seen | dict(zip(self.projections, parts, strict=True)), parts

    def _gate_attention(self, h: Tensor, seen: dict[Component, Tensor]) -> Tensor:
        seen["attn"] = h
        if not self.gated_attention and (self.end > STAGE["attn"] or "attn_gated" in self.wanted):
            h = h * self.gate1
        seen["attn_gated"] = h
        return h

    def _gate_mlp(self, h: Tensor) -> Tensor:
        return h if self.gated_mlp else h * self.gate2

    def _read(self, seen: dict[Component, Tensor]) -> dict[Component, Tensor]:
        return {component: value for component, value in seen.items() if component in self.wanted}


def scaled(part: Part, factor: float) -> Part:
    """The linear layer times a factor."""
    return (part[0] * factor, part[1] * factor)


def plain(layer: nn.Linear | nn.Conv2d) -> Part:
    """Weight and bias (zero if there is none) of an unchanged layer, float64."""
    weight = layer.weight.detach().double()
    return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()


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


def head_norm(norm: nn.Module | None, factor: float = 1.0, order: Tensor | None = None) -> nn.Module | None:
    """The norm of a head's queries or keys as it is deployed, times a factor; None where the model has none.

    `order` (d,) is the order of the head's channels. It is a LayerNorm or an RMSNorm with weights, of torch or of
    diffusers.
    """
    if norm is None or isinstance(norm, nn.Identity):
        return None
    own = slice(None) if order is None else order
    weight: Tensor = norm.weight[own].double() * factor  # type: ignore[index]
    if not isinstance(norm, nn.LayerNorm):
        return RMSNorm(weight, norm.eps)  # type: ignore[arg-type]
    deployed = nn.LayerNorm(len(weight), norm.eps, device="meta")
    deployed.weight = nn.Parameter(weight.float())
    deployed.bias = nn.Parameter((norm.bias[own].double() * factor).float())
    return deployed


def per_head(x: Tensor, norm: nn.Module | None, heads: int) -> Tensor:
    """Normalise each head of x (N, T, D)."""
    return x if norm is None else norm(x.unflatten(2, (heads, -1))).flatten(2)


class SwiGLU(nn.Module):
    """x (N, T, 2·H) -> silu(first half) · second half, (N, T, H)."""

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, dim=2)
        return nn.functional.silu(gate) * value


class FoldedMLP(nn.Module):
    """x (N, T, D) -> gate · MLP(adaLN(x)), for diffusers' `FeedForward` with the tanh GELU."""

    def __init__(self, norm: nn.LayerNorm, feedforward: nn.Module, scale: Tensor, shift: Tensor, gate: Tensor) -> None:
        super().__init__()
        net: Any = feedforward.net
        activation, _dropout, last = net
        self.norm = nn.LayerNorm(len(gate), eps=norm.eps, elementwise_affine=False)
        self.widen = joined([after_adaln(activation.proj, scale, shift)])
        self.activation = nn.GELU(approximate="tanh")
        self.narrow = gated(last, gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.activation(self.widen(self.norm(x))))
