"""DiTs with rotary positions: the common base of LightningDiT and JiT, which use parts of language models.

Differences to DiT: queries and keys are rotated by their position (RoPE, in addition to the sine-cosine table), norms
may be RMSNorm with weights, the MLP may be gated (SwiGLU), queries and keys may be normalised head by head, adaLN may
have no shift. Shapes: N images, T tokens, D width, d = D/heads channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones.class_conditional import ClassConditional
from aselect_edge.backbones.dit import Conditioning, See
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.backbones.family import Condition, of_block
from aselect_edge.backbones.rotary_config import RotaryConfig, rotary_angles, rotate
from aselect_runtime.records import Component, Tap

EPS = 1e-6
"""Epsilon of every norm over the width, and of RMSNorm over a head; LayerNorm over a head has torch's 1e-5."""


class Block(nn.Module):
    """A DiT block with RoPE, and with RMSNorm, SwiGLU and QK-norm if the config has them."""

    def __init__(self, config: RotaryConfig) -> None:
        super().__init__()
        width, head = config.width, config.attention_head_dim
        self.heads, self.shift, self.gated = config.num_attention_heads, config.shift, config.gated
        self.adaln = nn.Linear(width, (6 if config.shift else 4) * width)
        self.norm1, self.norm2 = _norm(config, width), _norm(config, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.query_norm, self.key_norm = (_head_norm(config, head) for _ in range(2))
        self.out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, config.mlp_width * (2 if config.gated else 1))
        self.mlp_out = nn.Linear(config.mlp_width, width)

    def modulation(self, c: Tensor) -> tuple[Tensor, ...]:
        """shift, scale and gate of attention, then of the MLP; each (N, 1, D), the shifts zero if there are none."""
        parts = self.adaln(F.silu(c))[:, None].chunk(6 if self.shift else 4, dim=2)
        if self.shift:
            return tuple(parts)
        scale1, gate1, scale2, gate2 = parts
        return torch.zeros_like(scale1), scale1, gate1, torch.zeros_like(scale2), scale2, gate2

    def forward(self, x: Tensor, c: Tensor, angles: Tensor, see: See) -> Tensor:
        """x (N, T, D), c (N, D), angles (T, d/2) -> (N, T, D); `see` is called with every component in turn."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        see("hidden", x)
        h = self.norm1(x) * (1 + scale1) + shift1
        see("adaln", h)
        q, k, v = self.query(h), self.key(h), self.value(h)
        see("query", q)
        see("key", k)
        see("value", v)
        h = self.out(self._attend(q, k, v, angles))
        see("attn", h)
        h = gate1 * h
        see("attn_gated", h)
        x = x + h
        h = self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        see("mlp", h)
        return x + gate2 * h

    def mlp(self, x: Tensor) -> Tensor:
        """x (N, T, D) -> (N, T, D)."""
        h = self.mlp_in(x)
        if self.gated:
            gate, h = h.chunk(2, dim=2)
            return self.mlp_out(F.silu(gate) * h)
        return self.mlp_out(F.gelu(h, approximate="tanh"))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> Tensor:
        q, k, v = (z.unflatten(2, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))  # (N, heads, T, d)
        q, k = rotate(self.query_norm(q), angles), rotate(self.key_norm(k), angles)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (N, T, D)


def _norm(config: RotaryConfig, width: int) -> nn.Module:
    return nn.RMSNorm(width, EPS) if config.norm == "rms" else nn.LayerNorm(width, EPS, elementwise_affine=False)


def _head_norm(config: RotaryConfig, channels: int) -> nn.Module:
    if not config.qk_norm:
        return nn.Identity()
    return nn.RMSNorm(channels, EPS) if config.norm == "rms" else nn.LayerNorm(channels)


class RotaryDiT(ClassConditional):
    """The complete, unfolded model without its output layer. A family derives from it and defines the schedule."""

    config: RotaryConfig

    def __init__(self, config: RotaryConfig, depth: int | None = None) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        first = config.bottleneck or width
        self.patch_embed = nn.Conv2d(config.in_channels, first, patch, stride=patch, bias=config.bottleneck is None)
        if config.bottleneck is not None:
            self.widen = nn.Conv2d(first, width, 1)
        self.conditioning = Conditioning(
            DiTConfig(
                num_attention_heads=config.num_attention_heads,
                attention_head_dim=config.attention_head_dim,
                num_embeds_ada_norm=config.num_embeds_ada_norm,
                null_class=config.null_class,
                frequency_shift=0,
            )
        )
        layers = config.num_layers if depth is None else min(depth, config.num_layers)
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        if config.context_tokens and layers > config.context_start:
            self.context = nn.Parameter(torch.empty(1, config.context_tokens, width))

    @classmethod
    def from_json(cls, config: dict[str, Any], depth: int | None = None) -> RotaryDiT:
        return cls(RotaryConfig.from_json(cls.family, config), depth)

    def to_json(self) -> dict[str, Any]:
        return {"_class_name": type(self).__name__, **asdict(self.config)}

    def keys(self) -> dict[str, str]:
        return {name: name for name in self.state_dict()}

    @property
    def embedding(self) -> nn.Module:
        return self.patch_embed if self.config.bottleneck is None else self.widen

    def angles(self, grid: tuple[int, int], index: int) -> Tensor:
        """RoPE's angles (tokens, d/2) in the block `index`: context tokens come first there and are not rotated."""
        angles = rotary_angles(self.config.attention_head_dim, grid, self.config.base)
        return F.pad(angles, (0, 0, self.prefix(index), 0))

    def prefix(self, index: int) -> int:
        """How many context tokens precede the image tokens in the block `index`."""
        return self.config.context_tokens if index >= self.config.context_start else 0

    def context_of(self, label: Tensor) -> Tensor:
        """The context tokens (N, context tokens, D) of the classes (N,), as they enter their first block."""
        return self.conditioning.label(label)[:, None] + self.context

    def walk(
        self, x: Tensor, timestep: Tensor, condition: Condition, taps: Iterable[Tap] | None = None
    ) -> Iterator[tuple[Tap, Tensor]]:
        wanted = self.wanted(taps)
        grid = self.grid(*x.shape[2:])
        tokens = self.patch_embed(x) if self.config.bottleneck is None else self.widen(self.patch_embed(x))
        h = tokens.flatten(2).transpose(1, 2) + self.positions(grid).to(x)  # (N, T, D)
        c = self.conditioning(timestep, condition["label"])
        for index in range(1 + max(tap.block for tap in wanted)):
            if self.prefix(index) and index == self.config.context_start:
                h = torch.cat([self.context_of(condition["label"]), h], dim=1)
            seen = _Seen(of_block(index, wanted), self.prefix(index))
            with self.held(self.blocks[index]):
                h = self.blocks[index](h, c, self.angles(grid, index).to(x.device), seen)
            yield from ((Tap(block=index, component=component), value) for component, value in seen.values.items())


class _Seen:
    """Keeps the wanted components of a block, only of the image tokens."""

    def __init__(self, wanted: frozenset[Component], prefix: int) -> None:
        self.wanted, self.prefix, self.values = wanted, prefix, dict[Component, Tensor]()

    def __call__(self, component: Component, value: Tensor) -> None:
        if component in self.wanted:
            self.values[component] = value[:, self.prefix :]
