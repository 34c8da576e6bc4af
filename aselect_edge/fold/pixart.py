"""PixArt folded: adaLN-single is merged into the linear layers, and cross-attention to the empty prompt is constant.

Masked tokens get -10000 before the softmax, which is a weight of exactly zero: only valid tokens count. With one valid
token, as for the empty prompt, the softmax is 1 for any query, so that cross-attention adds to_out(to_v(token)) to
every image token. With several valid tokens, their keys and values are constants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.backbones.pixart import PixArt
from aselect_edge.fold.algebra import FoldedEmbedding, after_adaln, attend, dense, joined
from aselect_edge.fold.parts import (
    PROJECTIONS,
    STAGE,
    WHOLE,
    CutBlock,
    FoldedMLP,
    OneStream,
    RMSNorm,
    cuts,
    plain,
    scaled,
)
from aselect_edge.fold.spec import FoldSpec
from aselect_runtime.records import Component


class FoldedPixArt(OneStream):
    """values (N, C, h, w) -> one feature map (N, rows, columns, D) per tap."""

    def __init__(self, model: PixArt, spec: FoldSpec) -> None:
        super().__init__()
        self.taps, self.grid = spec.taps, model.grid(*spec.size)
        self.embed = FoldedEmbedding(model.patch_embed.proj, model.positions(self.grid), spec)
        shared = model.modulation(torch.tensor([spec.noise.model_timestep]), spec.size).unflatten(1, (6, -1))[
            0
        ]  # (6, D)
        tokens = model.caption(spec.condition["prompt"])[:, spec.condition["mask"][0].bool()]  # (1, valid, C)
        self.blocks = nn.ModuleList()
        for index, wanted, end in cuts(spec):
            block = model.blocks[index]
            with model.held(*([block] if end else [])):
                self.blocks.append(self.block(block, shared, tokens, wanted, end))

    def block(
        self, block: nn.Module, shared: Tensor, tokens: Tensor, wanted: frozenset[Component], end: int
    ) -> FoldedBlock:
        """One block folded; the arguments are `FoldedBlock`'s."""
        return FoldedBlock(block, shared, tokens, wanted, end)


class FoldedBlock(CutBlock):
    """A block at a fixed condition, truncated after stage `end`, with the components that its taps read.

    `shared` (6, D) is the modulation that the block adds its table to, `tokens` (1, valid, C) the prompt.
    """

    def __init__(self, block: Any, shared: Tensor, tokens: Tensor, wanted: frozenset[Component], end: int) -> None:
        super().__init__(wanted, end, block.attn1.heads)
        if end == 0:
            return
        shift1, scale1, gate1, shift2, scale2, gate2 = (block.scale_shift_table.double() + shared.double()).unbind()
        self._take_norm(nn.LayerNorm(len(gate1), eps=block.norm1.eps, elementwise_affine=False), scale1, shift1)
        if end == 1:
            return
        self._project(block, scale1, shift1)
        if end == 2:
            return
        self._take_out(block.attn1.to_out[0], gate1)
        if end == 3:
            return
        self.cross: nn.Module | None = (ConstantCross if tokens.shape[1] == 1 else Cross)(block.attn2, tokens)
        if isinstance(self.cross, ConstantCross) and not wanted & {"attn", "attn_gated"}:
            self.out.bias.add_(self.cross.value)  # the value between the two is not read
            self.cross = None
        self.mlp = self._mlp(block, scale2, shift2, self._take_gate(gate2))

    def _project(self, block: Any, scale: Tensor, shift: Tensor) -> None:
        attends, layers = self.end >= STAGE["attn"], (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
        # Beyond the projections all three are needed; in a block truncated there, only those that are read.
        parts = {
            name: after_adaln(layer, scale, shift)
            for name, layer in zip(PROJECTIONS, layers, strict=True)
            if attends or name in self.wanted
        }
        root = block.attn1.inner_dim // self.heads
        self.scale = root**-0.5 if "query" in self.wanted else 1.0
        if attends and self.scale == 1.0:
            parts["query"] = scaled(parts["query"], root**-0.5)
        self.projections = list(parts)
        self.project = joined(list(parts.values()))

    def _mlp(self, block: Any, scale: Tensor, shift: Tensor, gate: Tensor) -> nn.Module:
        return FoldedMLP(block.norm2, block.ff, scale, shift, gate)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self.heads, self.scale)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[Component, Tensor]]:
        """x (N, T, D) -> the next block's x (undefined after a truncation) and the components that taps read."""
        seen, parts = self._begin(x)
        if self.end >= 3:
            q, k, v = parts
            h = self.out(self._attend(q, k, v))
            h = self._gate_attention(h, seen)
        if self.end >= 4:
            x = x + h
            x = x if self.cross is None else x + self.cross(x)
            h = self.mlp(x)
            seen["mlp"] = h
        if self.end == WHOLE:
            x = x + self._gate_mlp(h)
        return x, self._read(seen)


class ConstantCross(nn.Module):
    """Cross-attention to one token: the same for every query."""

    value: Tensor

    def __init__(self, attn: Any, tokens: Tensor) -> None:
        """`tokens` (1, 1, C)."""
        super().__init__()
        self.register_buffer("value", attn.to_out[0](attn.to_v(tokens))[0, 0])  # (D,)

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002 - constant output
        return self.value


class Cross(nn.Module):
    """Cross-attention of x (N, T, D) to several tokens, whose keys and values are constants (1, valid, D)."""

    key: Tensor
    value: Tensor

    def __init__(self, attn: Any, tokens: Tensor) -> None:
        """`tokens` (1, valid, C)."""
        super().__init__()
        self.heads = attn.heads
        scale, key = (attn.inner_dim // attn.heads) ** -0.5, attn.to_k(tokens)
        if attn.norm_q is None:
            self.query = dense(*scaled(plain(attn.to_q), scale))
        else:  # Sana-1.5's, over all heads
            key = attn.norm_k(key)
            norm = RMSNorm(attn.norm_q.weight * scale, attn.norm_q.eps)
            self.query = nn.Sequential(dense(*plain(attn.to_q)), norm)  # type: ignore[assignment]
        self.register_buffer("key", key)
        self.register_buffer("value", attn.to_v(tokens))
        self.output = dense(*plain(attn.to_out[0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(attend(self.query(x), self.key, self.value, self.heads))
