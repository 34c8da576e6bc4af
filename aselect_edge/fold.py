"""The fold: with the noise level, the noise and the class fixed, the conditioning path is constant and disappears.

Exact identities, applied once, in float64:

- adaLN before a linear layer: W·(n·(1 + scale) + shift) + b = (W·diag(1 + scale))·n + (W·shift + b);
- a gate after a linear layer: g·(W·h + b) = (diag(g)·W)·h + g·b;
- the softmax scale 1/sqrt(d) joins the query's weights, except where the query itself is read;
- the input: with x0 = pixels/127.5 - 1 in RGB, embed(alpha·x0 + sigma·eps) = (alpha/127.5)·W·pixels + constant,
  and the constant (bias, shift, noise) joins the position embedding. The channel order is folded into W too.

The model is truncated *inside* the deepest tap's block: a query tap keeps W_q of that block and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from aselect_edge.backbones.dit import Block, DiT
from aselect_edge.errors import InputError
from aselect_edge.records import Component, Noise, Tap

_STAGE: dict[Component, int] = {
    "hidden": 0,
    "adaln": 1,
    "query": 2,
    "key": 2,
    "value": 2,
    "attn": 3,
    "attn_gated": 3,
    "mlp": 4,
}
"""How far into its block a component lies."""
_PROJECTIONS: tuple[Component, ...] = ("query", "key", "value")
_WHOLE = 5


def fixed_noise(shape: tuple[int, int, int], seed: int | None) -> Tensor:
    """The one noise draw eps (1, C, H, W) of a bundle, float32; zeros without a seed. Same on every platform."""
    if seed is None:
        return torch.zeros(1, *shape)
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal((1, *shape), np.float32))


def fold(model: DiT, noise: Noise, taps: Sequence[Tap], imgsz: tuple[int, int], noise_seed: int | None) -> FoldedDiT:
    """Fold and truncate a DiT for the null class; raises InputError for a tap beyond its blocks."""
    deepest = max(tap.block for tap in taps)
    if deepest >= len(model.blocks):
        raise InputError(f"got a tap at block {deepest}, expected 0 to {len(model.blocks) - 1}; choose another tap")
    with torch.no_grad():
        return FoldedDiT(model, noise, tuple(taps), imgsz, noise_seed).eval()


class FoldedDiT(nn.Module):
    """pixels (N, 3, H, W), BGR, float 0..255 -> one feature map (N, rows, columns, D) per tap."""

    positions: Tensor

    def __init__(
        self, model: DiT, noise: Noise, taps: tuple[Tap, ...], imgsz: tuple[int, int], noise_seed: int | None
    ) -> None:
        super().__init__()
        self.taps, self.grid = taps, model.grid(*imgsz)
        embed, eps = model.patch_embed, fixed_noise((3, *imgsz), noise_seed)
        weight = embed.weight.double()
        patch = model.config.patch_size
        self.embed = nn.Conv2d(3, embed.out_channels, patch, stride=patch, bias=False)
        self.embed.weight.copy_((weight * noise.alpha / 127.5).flip(1))  # flip: BGR in, RGB weights
        constant = torch.full_like(eps, -noise.alpha).double() + noise.sigma * eps.double()
        bias = None if embed.bias is None else embed.bias.double()
        constant = nn.functional.conv2d(constant, weight, bias, stride=patch)
        positions = model.positions(self.grid).double() + constant.flatten(2).transpose(1, 2)
        self.register_buffer("positions", positions.float())  # (1, T, D)

        label = torch.tensor([model.null_label])
        timestep = torch.tensor([noise.model_timestep])
        self.blocks = nn.ModuleList()
        deepest = max(tap.block for tap in taps)
        for index in range(deepest + 1):
            wanted = frozenset(tap.component for tap in taps if tap.block == index)
            condition = model.conditioning[index](timestep, label)
            end = _WHOLE if index < deepest else max(_STAGE[component] for component in wanted)
            self.blocks.append(FoldedBlock(model.blocks[index], condition, wanted, end))  # type: ignore[arg-type]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        x = self.embed(pixels).flatten(2).transpose(1, 2) + self.positions  # (N, T, D)
        seen: dict[Tap, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x, read = block(x)
            seen |= {Tap(block=index, component=component): value for component, value in read.items()}
        return tuple(seen[tap].unflatten(1, self.grid) for tap in self.taps)


class FoldedBlock(nn.Module):
    """A block at a fixed condition, cut after stage `end`, with what its taps read."""

    scale1: Tensor
    shift1: Tensor
    gate1: Tensor
    gate2: Tensor

    def __init__(self, block: Block, condition: Tensor, wanted: frozenset[Component], end: int) -> None:
        super().__init__()
        self.wanted, self.end, self.heads = wanted, end, block.heads
        shift1, scale1, gate1, shift2, scale2, gate2 = (m.flatten().double() for m in block.modulation(condition))
        width = len(gate1)
        if end == 0:
            return
        self.norm1 = nn.LayerNorm(width, eps=block.norm1.eps, elementwise_affine=False)
        if "adaln" in wanted:
            self.register_buffer("scale1", (1 + scale1).float())
            self.register_buffer("shift1", shift1.float())
        if end == 1:
            return
        # Beyond the projections all three are needed; in a block cut there, only those that are read.
        self.projections = [p for p in _PROJECTIONS if end > 2 or p in wanted]
        self.scaled = "query" not in wanted
        attention_scale = (width // block.heads) ** -0.5
        parts = []
        for name in self.projections:
            weight, bias = _after_adaln(getattr(block, name), scale1, shift1)
            factor = attention_scale if name == "query" and self.scaled and end > 2 else 1.0
            parts.append((weight * factor, bias * factor))
        self.project = _linear(torch.cat([w for w, _ in parts]), torch.cat([b for _, b in parts]))
        if end == 2:
            return
        self.attention_scale = 1.0 if self.scaled else attention_scale
        self.gated_attention = "attn" not in wanted
        if self.gated_attention:
            self.out = _gated(block.out, gate1)
        else:
            self.out = _gated(block.out, torch.ones_like(gate1))
            self.register_buffer("gate1", gate1.float())
        if end == 3:
            return
        self.norm2 = nn.LayerNorm(width, eps=block.norm2.eps, elementwise_affine=False)
        self.mlp_in = _linear(*_after_adaln(block.mlp_in, scale2, shift2))
        self.gelu = nn.GELU(approximate="tanh")
        self.gated_mlp = "mlp" not in wanted
        self.mlp_out = _gated(block.mlp_out, gate2 if self.gated_mlp else torch.ones_like(gate2))
        if not self.gated_mlp:
            self.register_buffer("gate2", gate2.float())

    def forward(self, x: Tensor) -> tuple[Tensor, dict[Component, Tensor]]:
        """x (N, T, D) -> the next block's x (meaningless after a cut) and the components that taps read."""
        seen: dict[Component, Tensor] = {"hidden": x}
        if self.end >= 1:
            h = self.norm1(x)
            if "adaln" in self.wanted:
                seen["adaln"] = h * self.scale1 + self.shift1
        if self.end >= 2:
            parts = self.project(h).chunk(len(self.projections), dim=2)
            seen |= dict(zip(self.projections, parts, strict=True))
        if self.end >= 3:
            h = self.out(self._attend(*parts))
            seen["attn"] = h
            h = h if self.gated_attention else h * self.gate1
            seen["attn_gated"] = h
        if self.end >= 4:
            x = x + h
            h = self.mlp_out(self.gelu(self.mlp_in(self.norm2(x))))
            seen["mlp"] = h
            x = x + (h if self.gated_mlp else h * self.gate2)
        return x, {component: value for component, value in seen.items() if component in self.wanted}

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Written out: fused attention exports have produced silently wrong TensorRT engines.
        q, k, v = (z.unflatten(2, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))  # (N, heads, T, D/heads)
        if not self.scaled:
            q = q * self.attention_scale
        weights = (q @ k.transpose(2, 3)).softmax(dim=3)
        return (weights @ v).transpose(1, 2).flatten(2)  # (N, T, D)


def _after_adaln(linear: nn.Linear, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias (float64) of a linear layer that takes the bare LayerNorm output."""
    weight = linear.weight.double()
    bias = weight @ shift
    return weight * (1 + scale), bias if linear.bias is None else bias + linear.bias.double()


def _gated(linear: nn.Linear, gate: Tensor) -> nn.Linear:
    return _linear(gate[:, None] * linear.weight.double(), gate * linear.bias.double())


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear
