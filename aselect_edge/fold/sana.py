"""Sana folded: PixArt's fold, with linear attention and an MLP that is a gated convolution.

Attention stays linear in the number of tokens: keys and values become one product of d x d for each head, whatever the
size of the input. No matrix of tokens by tokens is in the deployed graph.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from aselect_edge.fold.algebra import after_adaln, joined
from aselect_edge.fold.linear_attention import GatedConvolution, LinearAttention
from aselect_edge.fold.parts import PROJECTIONS, STAGE, RMSNorm
from aselect_edge.fold.pixart import FoldedBlock, FoldedPixArt
from aselect_runtime.records import Component


class FoldedSana(FoldedPixArt):
    """values (N, C, h, w) -> one feature map (N, rows, columns, D) per tap."""

    def block(
        self, block: nn.Module, shared: Tensor, tokens: Tensor, wanted: frozenset[Component], end: int
    ) -> FoldedBlock:
        return FoldedSanaBlock(block, shared, tokens, wanted, end, self.grid)


class FoldedSanaBlock(FoldedBlock):
    """A block at a fixed condition, for a `grid` of token rows and columns; otherwise as PixArt's."""

    def __init__(
        self,
        block: Any,
        shared: Tensor,
        tokens: Tensor,
        wanted: frozenset[Component],
        end: int,
        grid: tuple[int, int],
    ) -> None:
        self.grid = grid
        super().__init__(block, shared, tokens, wanted, end)

    def _project(self, block: Any, scale: Tensor, shift: Tensor) -> None:
        attends, layers = self.end >= STAGE["attn"], (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
        parts = {
            name: after_adaln(layer, scale, shift)
            for name, layer in zip(PROJECTIONS, layers, strict=True)
            if attends or name in self.wanted
        }
        self.projections = list(parts)
        self.project = joined(list(parts.values()))
        if attends:
            norms = (block.attn1.norm_q, block.attn1.norm_k)
            self.query_norm, self.key_norm = (None if n is None else RMSNorm(n.weight, n.eps) for n in norms)
            self.attention = LinearAttention(self.heads)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q if self.query_norm is None else self.query_norm(q)
        k = k if self.key_norm is None else self.key_norm(k)
        return self.attention(q, k, v)

    def _mlp(self, block: Any, scale: Tensor, shift: Tensor, gate: Tensor) -> nn.Module:
        return FoldedConvolutions(block, scale, shift, gate, self.grid)


class FoldedConvolutions(nn.Module):
    """x (N, T, D) -> gate · MLP(adaLN(x)), of diffusers' `GLUMBConv`: adaLN in its first layer, the gate in its last.

    The first looks at one pixel, so that nothing is padded before the shift is in.
    """

    def __init__(self, block: Any, scale: Tensor, shift: Tensor, gate: Tensor, grid: tuple[int, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(len(gate), eps=block.norm2.eps, elementwise_affine=False)
        self.convolutions, self.grid = GatedConvolution(block.ff, scale, shift, gate), grid

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).transpose(1, 2).unflatten(2, self.grid)  # (N, D, rows, columns)
        return self.convolutions(h).flatten(2).transpose(1, 2)
