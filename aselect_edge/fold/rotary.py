"""LightningDiT and JiT folded: adaLN, RoPE's tables and the channel order become constants or part of linear layers.

A norm keeps its weights, which cost nothing if a runtime fuses it. The gate of a SwiGLU is merged into its last layer,
as in any MLP. The context tokens are constants in the first block that has them; a block that ends before attention
does not need them, and the last block with attention computes only their keys and values.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from aselect_edge.backbones.rotary import Block, RotaryDiT
from aselect_edge.fold.algebra import FoldedEmbedding, after_adaln, attend, composed, gated, joined
from aselect_edge.fold.parts import PROJECTIONS, STAGE, WHOLE, CutBlock, OneStream, SwiGLU, bare_norm, cuts
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
        for index, wanted, end in cuts(spec):
            entering = model.context_of(label) if model.prefix(index) > model.prefix(index - 1) else None
            angles, block = model.angles(self.grid, index), cast(Block, model.blocks[index])
            with model.held(*([block] if end else [])):
                self.blocks.append(FoldedBlock(block, c, angles, model.prefix(index), entering, wanted, end))


class FoldedBlock(CutBlock):
    """A block at a fixed condition, truncated after stage `end`, with the tapped components of the image tokens."""

    context: Tensor | None

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
        super().__init__(wanted, end, block.heads)
        attends = end >= STAGE["attn"]
        self.register_buffer("context", entering if attends else None)
        self.dropped = prefix if not attends and entering is None else 0
        self.tokens = len(angles) - prefix
        if end == 0:
            return
        shift1, scale1, gate1, shift2, scale2, gate2 = (m.flatten().double() for m in block.modulation(c))
        self._take_norm(bare_norm(block.norm1), scale1, shift1)
        if end == 1:
            return
        self._project(block, scale1, shift1, angles)
        if end == 2:
            return
        self._take_out(block.out, gate1)
        if end == 3:
            return
        self.norm2 = bare_norm(block.norm2)
        self.mlp_in = joined([after_adaln(block.mlp_in, scale2, shift2)])
        self.activation = SwiGLU() if block.gated else nn.GELU(approximate="tanh")
        self.mlp_out = gated(block.mlp_out, self._take_gate(gate2))

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
        seen, parts = self._begin(x)
        if self.end >= 3:
            q, k, v = parts
            x, q = (x, q) if self.end == WHOLE else (self._images(x), self._images(q))
            h = self.out(attend(self.query(q), self.key(k), v, self.heads))
            h = self._gate_attention(h, seen)
        if self.end >= 4:
            x = x + h
            h = self.mlp_out(self.activation(self.mlp_in(self.norm2(x))))
            seen["mlp"] = h
        if self.end == WHOLE:
            x = x + self._gate_mlp(h)
        return x, {component: self._images(value) for component, value in self._read(seen).items()}

    def _images(self, x: Tensor) -> Tensor:
        """The image tokens of x, from which the context tokens may already have been removed."""
        return x[:, -self.tokens :] if x.shape[1] > self.tokens else x
