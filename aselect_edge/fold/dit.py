"""DiT and SiT folded: adaLN-Zero is merged into the linear layers, and the model ends inside the deepest tap's block.

A `query` tap keeps only W_q of its block. The softmax scale 1/sqrt(d) is merged into the query's norm if it has one,
else into its weights, unless the query itself is read.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from aselect_edge.backbones.dit import Block, DiT
from aselect_edge.fold.algebra import FoldedEmbedding, after_adaln, attend, gated, joined
from aselect_edge.fold.parts import PROJECTIONS, STAGE, WHOLE, CutBlock, OneStream, cuts, head_norm, per_head
from aselect_edge.fold.spec import FoldSpec
from aselect_runtime.records import Component


class FoldedDiT(OneStream):
    """values (N, C, h, w) -> one feature map (N, rows, columns, D) per tap."""

    def __init__(self, model: DiT, spec: FoldSpec) -> None:
        super().__init__()
        self.taps, self.grid = spec.taps, model.grid(*spec.size)
        self.embed = FoldedEmbedding(model.patch_embed, model.positions(self.grid), spec)
        timestep = torch.tensor([spec.noise.model_timestep])
        self.blocks = nn.ModuleList()
        for index, wanted, end in cuts(spec):
            block = cast(Block, model.blocks[index])
            if end == 0:  # a hidden tap needs nothing of its block
                self.blocks.append(FoldedBlock(block, None, wanted, end))
                continue
            with model.held(model.conditioning[index], block):
                c = model.conditioning[index](timestep, spec.condition["label"])
                self.blocks.append(FoldedBlock(block, c, wanted, end))


class FoldedBlock(CutBlock):
    """A block at a fixed condition, truncated after stage `end`, with the components that its taps read."""

    def __init__(self, block: Block, c: Tensor | None, wanted: frozenset[Component], end: int) -> None:
        super().__init__(wanted, end, block.heads)
        if c is None:
            return
        shift1, scale1, gate1, shift2, scale2, gate2 = (m.flatten().double() for m in block.modulation(c))
        width = len(gate1)
        self._take_norm(nn.LayerNorm(width, eps=block.norm1.eps, elementwise_affine=False), scale1, shift1)
        if end == 1:
            return
        self._project(block, scale1, shift1)
        if end == 2:
            return
        self._take_out(block.out, gate1)
        if end == 3:
            return
        self.norm2 = nn.LayerNorm(width, eps=block.norm2.eps, elementwise_affine=False)
        self.mlp_in = joined([after_adaln(block.mlp_in, scale2, shift2)])
        self.gelu = nn.GELU(approximate="tanh")
        self.mlp_out = gated(block.mlp_out, self._take_gate(gate2))

    def _project(self, block: Block, scale: Tensor, shift: Tensor) -> None:
        """All that is projected, as one product, and the norms of its heads; the softmax scale goes where it can."""
        # Beyond the projections all three are needed; in a block cut there, only those that are read.
        attends = self.end >= STAGE["attn"]
        self.projections = [p for p in PROJECTIONS if attends or p in self.wanted]
        root = (block.query.out_features // block.heads) ** -0.5
        self.query_norm = head_norm(block.query_norm, root) if attends else None
        self.key_norm = head_norm(block.key_norm) if attends else None
        into_query = self.query_norm is None and "query" not in self.wanted and attends
        self.attention_scale = 1.0 if into_query or self.query_norm is not None else root
        parts = []
        for name in self.projections:
            weight, bias = after_adaln(getattr(block, name), scale, shift)
            factor = root if name == "query" and into_query else 1.0
            parts.append(((weight * factor).float(), (bias * factor).float()))
        self.project = joined(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[Component, Tensor]]:
        """x (N, T, D) -> the next block's x (undefined after a truncation) and the components that taps read."""
        seen, parts = self._begin(x)
        if self.end >= 3:
            q, k, v = parts
            q, k = per_head(q, self.query_norm, self.heads), per_head(k, self.key_norm, self.heads)
            h = self.out(attend(q, k, v, self.heads, self.attention_scale))
            h = self._gate_attention(h, seen)
        if self.end >= 4:
            x = x + h
            h = self.mlp_out(self.gelu(self.mlp_in(self.norm2(x))))
            seen["mlp"] = h
        if self.end == WHOLE:
            x = x + self._gate_mlp(h)
        return x, self._read(seen)
