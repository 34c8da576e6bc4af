"""LightningDiT and JiT folded: adaLN, RoPE's tables and the channel order become constants or part of linear layers.

A norm keeps its weights, which cost nothing if a runtime fuses it. The gate of a SwiGLU is merged into its last layer,
as in any MLP. The context tokens are constants in the first block that has them; a block that ends before attention
does not need them, and the last block with attention computes only their keys and values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aselect_edge.backbones.rotary import Block, RotaryDiT
from aselect_edge.fold.algebra import FoldedEmbedding, after_adaln, attend, composed, gated, joined
from aselect_edge.fold.parts import PROJECTIONS, STAGE, WHOLE, OneStream, SwiGLU, bare_norm
from aselect_edge.fold.rope import Heads, halves, reordered
from aselect_edge.fold.spec import FoldSpec
from aselect_runtime.records import Component


class FoldedRotary(OneStream):
    """values (N, C, h, w) -> one feature map (N, rows, columns, D) per tap."""

    def __init__(self, model: RotaryDiT, spec: FoldSpec) -> None:
        super().__init__()
        self.taps, self.grid = spec.taps, model.grid(*spec.size)
        embed = model.patch_embed if model.config.bottleneck is None else composed(model.patch_embed, model.widen)
        self.embed = FoldedEmbedding(embed, model.positions(self.grid), spec)
        label = spec.condition["label"]
        c = model.conditioning(torch.tensor([spec.noise.model_timestep]), label)
        self.blocks = nn.ModuleList()
        deepest = spec.deepest
        for index in range(deepest + 1):
            wanted = frozenset(tap.component for tap in spec.taps if tap.block == index)
            end = WHOLE if index < deepest else max(STAGE[component] for component in wanted)
            entering = model.context_of(label) if model.prefix(index) > model.prefix(index - 1) else None
            angles, block = model.angles(self.grid, index), model.blocks[index]
            with model.held(*([block] if end else [])):
                self.blocks.append(FoldedBlock(block, c, angles, model.prefix(index), entering, wanted, end))  # type: ignore[arg-type]


class FoldedBlock(nn.Module):
    """A block at a fixed condition, truncated after stage `end`, with the tapped components of the image tokens."""

    context: Tensor | None
    scale1: Tensor
    shift1: Tensor
    gate1: Tensor
    gate2: Tensor

    def __init__(
        self,
        block: Block,
        c: Tensor,
        angles: Tensor,
        prefix: int,
        entering: Tensor | None,
        wanted: frozenset[Component],
        end: int,
    ) -> None:
        """`angles` (tokens, d/2) are for all tokens, of which the first `prefix` are context.

        The context tokens are part of the input, or are the constants `entering` (1, prefix, D).
        """
        super().__init__()
        self.wanted, self.end, self.heads = wanted, end, block.heads
        attends = end >= STAGE["attn"]
        self.register_buffer("context", entering if attends else None)
        self.dropped = prefix if not attends and entering is None else 0
        self.tokens = len(angles) - prefix
        if end == 0:
            return
        shift1, scale1, gate1, shift2, scale2, gate2 = (m.flatten().double() for m in block.modulation(c))
        self.norm1 = bare_norm(block.norm1)
        if "adaln" in wanted:
            self.register_buffer("scale1", (1 + scale1).float())
            self.register_buffer("shift1", shift1.float())
        if end == 1:
            return
        self._project(block, scale1, shift1, angles)
        if end == 2:
            return
        self.gated_attention = "attn" not in wanted
        self.out = gated(block.out, gate1 if self.gated_attention else torch.ones_like(gate1))
        if not self.gated_attention and (end > 3 or "attn_gated" in wanted):
            self.register_buffer("gate1", gate1.float())
        if end == 3:
            return
        self.norm2 = bare_norm(block.norm2)
        self.mlp_in = joined([after_adaln(block.mlp_in, scale2, shift2)])
        self.activation = SwiGLU() if block.gated else nn.GELU(approximate="tanh")
        self.gated_mlp = "mlp" not in wanted
        self.mlp_out = gated(block.mlp_out, gate2 if self.gated_mlp else torch.ones_like(gate2))
        if not self.gated_mlp and end == WHOLE:
            self.register_buffer("gate2", gate2.float())

    def _project(self, block: Block, scale: Tensor, shift: Tensor, angles: Tensor) -> None:
        attends = self.end >= STAGE["attn"]
        # Beyond the projections all three are needed; in a block truncated there, only those that are read.
        self.projections = [name for name in PROJECTIONS if attends or name in self.wanted]
        parts = {name: after_adaln(getattr(block, name), scale, shift) for name in self.projections}
        if attends:
            channels = 2 * angles.shape[1]
            order = halves(self.heads, channels)
            for name in ("query", "key"):
                if name not in self.wanted:
                    parts[name] = reordered(parts[name], order)
            asked = angles if self.end == WHOLE else angles[len(angles) - self.tokens :]
            plain = {name: name in self.wanted for name in PROJECTIONS}
            self.query = Heads(block.query_norm, asked, self.heads, channels**-0.5, plain=plain["query"])
            self.key = Heads(block.key_norm, angles, self.heads, plain=plain["key"])
        self.project = joined(list(parts.values()))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[Component, Tensor]]:
        """x (N, tokens, D) -> the next block's x (undefined after a truncation) and the components that taps read."""
        if self.context is not None:
            x = torch.cat([self.context.expand(len(x), -1, -1), x], dim=1)
        x = x[:, self.dropped :] if self.dropped else x
        seen: dict[Component, Tensor] = {"hidden": self._images(x)}
        if self.end >= 1:
            h = self.norm1(x)
            if "adaln" in self.wanted:
                seen["adaln"] = self._images(h) * self.scale1 + self.shift1
        if self.end >= 2:
            parts = self.project(h).chunk(len(self.projections), dim=2)
            seen |= {name: self._images(part) for name, part in zip(self.projections, parts, strict=True)}
        if self.end >= 3:
            q, k, v = parts
            x, q = (x, q) if self.end == WHOLE else (self._images(x), self._images(q))
            h = self.out(attend(self.query(q), self.key(k), v, self.heads))
            seen["attn"] = self._images(h)
            if not self.gated_attention and (self.end > 3 or "attn_gated" in self.wanted):
                h = h * self.gate1
            seen["attn_gated"] = self._images(h)
        if self.end >= 4:
            x = x + h
            h = self.mlp_out(self.activation(self.mlp_in(self.norm2(x))))
            seen["mlp"] = self._images(h)
        if self.end == WHOLE:
            x = x + (h if self.gated_mlp else h * self.gate2)
        return x, {component: value for component, value in seen.items() if component in self.wanted}

    def _images(self, x: Tensor) -> Tensor:
        """The image tokens of x, from which the context tokens may already have been removed."""
        return x[:, -self.tokens :] if x.shape[1] > self.tokens else x
