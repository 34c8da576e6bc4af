"""The class-conditional DiT of Peebles and Xie (arXiv 2212.09748), with diffusers' weights and formulas.

diffusers' `DiTTransformer2DModel` un-patchifies as a square; this module runs the same weights on any grid and
outputs every component of every block. Shapes: N images, T = (H/p)·(W/p) tokens, D width, p patch size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones.class_conditional import ClassConditional
from aselect_edge.backbones.dit_config import DiTConfig, diffusers_keys
from aselect_edge.backbones.family import Condition, of_block
from aselect_edge.backbones.noise import DIT_SCHEDULE, Schedule, read_schedule
from aselect_runtime.records import Component, Tap

See = Callable[[Component, Tensor], None]


class Conditioning(nn.Module):
    """Timestep plus class label, as one vector (N, D)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.divisor = 128 - config.frequency_shift
        self.time_in = nn.Linear(256, config.width)
        self.time_out = nn.Linear(config.width, config.width)
        self.label = nn.Embedding(config.num_embeds_ada_norm + config.null_class, config.width)

    def forward(self, timestep: Tensor, label: Tensor) -> Tensor:
        exponent = -math.log(10000) * torch.arange(128, dtype=torch.float32, device=timestep.device) / self.divisor
        angle = timestep[:, None].float() * exponent.exp()  # (N, 128)
        wave = torch.cat([angle.cos(), angle.sin()], dim=1).to(self.time_in.weight.dtype)  # (N, 256)
        return self.time_out(F.silu(self.time_in(wave))) + self.label(label)


class Block(nn.Module):
    """A DiT block with adaLN-Zero."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, bias = config.width, config.attention_bias
        self.heads = config.num_attention_heads
        self.adaln = nn.Linear(width, 6 * width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.query_norm, self.key_norm = (
            # torch's own eps of 1e-5, which timm's attention has
            nn.LayerNorm(config.attention_head_dim) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps, elementwise_affine=False)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def modulation(self, c: Tensor) -> tuple[Tensor, ...]:
        """shift, scale and gate of attention, then of the MLP; each (N, 1, D)."""
        return self.adaln(F.silu(c))[:, None].chunk(6, dim=2)

    def forward(self, x: Tensor, c: Tensor, see: See | None = None) -> Tensor:
        """x (N, T, D), c (N, D) -> (N, T, D); `see` is called with every component in turn."""
        show = see or _ignore
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        show("hidden", x)
        h = self.norm1(x) * (1 + scale1) + shift1
        show("adaln", h)
        q, k, v = self.query(h), self.key(h), self.value(h)
        show("query", q)
        show("key", k)
        show("value", v)
        h = self.out(self._attend(q, k, v))
        show("attn", h)
        h = gate1 * h
        show("attn_gated", h)
        x = x + h
        h = self.norm2(x) * (1 + scale2) + shift2
        h = self.mlp_out(F.gelu(self.mlp_in(h), approximate="tanh"))
        show("mlp", h)
        x = x + gate2 * h
        return x

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.unflatten(2, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))  # (N, heads, T, D/heads)
        q, k = self.query_norm(q), self.key_norm(k)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (N, T, D)


def _ignore(_component: Component, _value: Tensor) -> None:
    pass


class DiT(ClassConditional):
    """The complete, unfolded model: the reference that everything deployed is compared with.

    With `tied`, all blocks share one `Conditioning`, as DiT was trained; diffusers stores one per block. With
    `depth`, only the first blocks exist, without an output layer.
    """

    family: ClassVar[str] = "dit"
    streamed: ClassVar[tuple[str, ...]] = ("blocks.", "conditioning.")
    config: DiTConfig

    def __init__(self, config: DiTConfig, tied: bool = False, depth: int | None = None) -> None:
        super().__init__()
        self.config, self.tied = config, tied
        self.whole = depth is None
        width, patch = config.width, config.patch_size
        layers = config.num_layers if depth is None else min(depth, config.num_layers)
        self.patch_embed = nn.Conv2d(config.in_channels, width, patch, stride=patch)
        first = Conditioning(config)
        self.conditioning = nn.ModuleList([first, *(first if tied else Conditioning(config) for _ in range(1, layers))])
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        if self.whole:
            channels = config.out_channels or config.in_channels
            self.final_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
            self.final_adaln = nn.Linear(width, 2 * width)
            self.final = nn.Linear(width, patch * patch * channels)

    @classmethod
    def from_json(cls, config: dict[str, Any], depth: int | None = None) -> DiT:
        return cls(DiTConfig.from_json(config), config.get("tied") is True, depth)

    def to_json(self) -> dict[str, Any]:
        return {**self.config.to_json(), **({"tied": True} if self.tied else {})}

    def keys(self) -> dict[str, str]:
        keys = diffusers_keys(self.config, None if self.whole else self.depth)
        if not self.tied:
            return keys
        return {ours: theirs for ours, theirs in keys.items() if not re.match(r"conditioning\.[1-9]", ours)}

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        return read_schedule(DIT_SCHEDULE if config is None else config)

    def tables(self) -> dict[str, Tensor]:
        side = self.config.base
        return {"pos_embed.pos_embed": self.positions((side, side))} if self.width % 4 == 0 else {}

    @property
    def null_label(self) -> int:
        """Index of the class "no class"."""
        return self.config.num_embeds_ada_norm

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor, positions: Tensor | None = None) -> Tensor:
        """Denoise: x (N, C, H, W), timestep (N,), label (N,) -> (N, C_out, H, W).

        `positions` (T, D) or (N, T, D) replaces the table of the grid, for windows of a larger image.
        """
        assert self.whole, "a truncated model has no output layer"
        rows, columns = self.grid(*x.shape[2:])
        h = self._embed(x, positions)
        conditions = self._conditions(timestep, label)
        for block, c in zip(self.blocks, conditions, strict=True):
            h = block(h, c)
        return self.decode(h, conditions[0], (rows, columns))

    def decode(self, h: Tensor, c: Tensor, grid: tuple[int, int]) -> Tensor:
        """The output layer: tokens (N, T, D) after the last block and the condition (N, D) -> (N, C_out, H, W)."""
        rows, columns = grid
        shift, scale = self.final_adaln(F.silu(c))[:, None].chunk(2, dim=2)
        h = self.final(self.final_norm(h) * (1 + scale) + shift)  # (N, T, p·p·C_out)
        patch = self.config.patch_size
        h = h.unflatten(2, (patch, patch, -1)).unflatten(1, (rows, columns))  # (N, rows, columns, p, p, C_out)
        image: Tensor = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return image

    def walk(
        self, x: Tensor, timestep: Tensor, condition: Condition, taps: Iterable[Tap] | None = None
    ) -> Iterator[tuple[Tap, Tensor]]:
        wanted = self.wanted(taps)
        h = self._embed(x, None)
        for index in range(1 + max(tap.block for tap in wanted)):
            components, seen = of_block(index, wanted), dict[Component, Tensor]()

            def see(
                component: Component,
                value: Tensor,
                components: frozenset[Component] = components,
                seen: dict[Component, Tensor] = seen,
            ) -> None:
                if component in components:
                    seen[component] = value

            with self.held(self.conditioning[index], self.blocks[index]):
                h = self.blocks[index](h, self.conditioning[index](timestep, condition["label"]), see)
            yield from ((Tap(block=index, component=component), value) for component, value in seen.items())

    def _embed(self, x: Tensor, positions: Tensor | None) -> Tensor:
        table = self.positions(self.grid(*x.shape[2:])) if positions is None else positions
        tokens: Tensor = self.patch_embed(x).flatten(2).transpose(1, 2)  # (N, T, D)
        return tokens + table.to(x)

    def _conditions(self, timestep: Tensor, label: Tensor) -> list[Tensor]:
        if self.tied:
            return [self.conditioning[0](timestep, label)] * len(self.blocks)
        return [conditioning(timestep, label) for conditioning in self.conditioning]


def initialise(model: DiT) -> None:
    """DiT's initialisation: Xavier linears, zero adaLN and output (adaLN-Zero)."""
    zeroed = [model.final_adaln, model.final]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, Block):
            zeroed.append(module.adaln)
    nn.init.xavier_uniform_(model.patch_embed.weight.view(model.patch_embed.out_channels, -1))
    for linear in zeroed:
        nn.init.zeros_(linear.weight)
