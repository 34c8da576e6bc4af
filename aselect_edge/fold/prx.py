"""PRX folded: adaLN, RoPE's tables and the prompt are constants or in the linear layers.

No block changes the prompt's tokens, so that at a fixed prompt their keys and values are constants of each block,
already normalised: the text's half of every block is gone. Masked tokens have a weight of exactly zero and are left
out. The empty prompt's one token leaves one key and one value besides those of the image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.backbones.prx import PRX
from aselect_edge.fold.algebra import FoldedEmbedding, after_adaln, attend, gated, joined
from aselect_edge.fold.parts import PROJECTIONS, STAGE, WHOLE, CutBlock, OneStream, Part, cuts
from aselect_edge.fold.rope import Heads, halves, reordered
from aselect_edge.fold.spec import FoldSpec
from aselect_runtime.records import Component


class FoldedPRX(OneStream):
    """values (N, C, h, w) -> one feature map (N, rows, columns, D) per tap."""

    def __init__(self, model: PRX, spec: FoldSpec) -> None:
        super().__init__()
        self.taps, self.grid = spec.taps, model.grid(*spec.size)
        self.embed = FoldedEmbedding(_patch_embed(model), torch.zeros(1, model.width), spec)
        c = model.conditioning(torch.tensor([spec.noise.model_timestep]))  # (1, D)
        tokens = model.caption(spec.condition["prompt"])[:, spec.condition["mask"][0].bool()]  # (1, valid, D)
        angles = model.angles(self.grid)
        self.blocks = nn.ModuleList()
        for index, wanted, end in cuts(spec):
            block = model.blocks[index]
            with model.held(*([block] if end else [])):
                self.blocks.append(FoldedBlock(block, c, tokens, angles, wanted, end))


def _patch_embed(model: PRX) -> nn.Conv2d:
    weight = model.patch_weight()
    patch: tuple[Any, Any] = (weight.shape[2], weight.shape[3])
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], patch, patch, device="meta")
    conv.weight, conv.bias = nn.Parameter(weight), model.model.img_in.bias
    return conv


class FoldedBlock(CutBlock):
    """A block at a fixed condition, cut after stage `end`, with what its taps read.

    `c` (1, D) is what its modulation is computed from, `tokens` (1, valid, D) the prompt, `angles` (T, d/2) RoPE's.
    """

    def __init__(
        self, block: Any, c: Tensor, tokens: Tensor, angles: Tensor, wanted: frozenset[Component], end: int
    ) -> None:
        super().__init__(wanted, end, block.attention.heads)
        if end == 0:
            return
        first, second = block.modulation(c)
        shift1, scale1, gate1, shift2, scale2, gate2 = (part.flatten().double() for part in (*first, *second))
        self._take_norm(nn.LayerNorm(len(gate1), eps=block.img_pre_norm.eps, elementwise_affine=False), scale1, shift1)
        if end == 1:
            return
        self._project(block.attention, after_adaln(block.attention.img_qkv_proj, scale1, shift1), angles)
        if end == 2:
            return
        self.text = TextTokens(block.attention, tokens, halves(self.heads, 2 * angles.shape[1]))
        self._take_out(block.attention.to_out[0], gate1)
        if end == 3:
            return
        self.mlp = GatedMLP(block, scale2, shift2, self._take_gate(gate2))

    def _project(self, attention: Any, whole: Part, angles: Tensor) -> None:
        attends, channels = self.end >= STAGE["attn"], 2 * angles.shape[1]
        weights, biases = (part.chunk(3) for part in whole)
        parts = {name: (weights[i], biases[i]) for i, name in enumerate(PROJECTIONS) if attends or name in self.wanted}
        if attends:
            for name in PROJECTIONS[:2]:
                if name not in self.wanted:
                    parts[name] = reordered(parts[name], halves(self.heads, channels))
            plain = {name: name in self.wanted for name in PROJECTIONS}
            self.query = Heads(attention.norm_q, angles, self.heads, channels**-0.5, plain=plain["query"])
            self.key = Heads(attention.norm_k, angles, self.heads, plain=plain["key"])
        self.projections = list(parts)
        self.project = joined(list(parts.values()))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[Component, Tensor]]:
        """x (N, T, D) -> the next block's x (meaningless after a cut) and the components that taps read."""
        seen, parts = self._begin(x)
        if self.end >= 3:
            q, k, v = parts
            keys, values = self.text(self.key(k), v)
            h = self.out(attend(self.query(q), keys, values, self.heads))
            h = self._gate_attention(h, seen)
        if self.end >= 4:
            x = x + h
            h = self.mlp(x)
            seen["mlp"] = h
        if self.end == WHOLE:
            x = x + self._gate_mlp(h)
        return x, self._read(seen)


class TextTokens(nn.Module):
    """The image's keys and values (N, T, D) -> those of the prompt, constants (1, valid, D), before them."""

    key: Tensor
    value: Tensor

    def __init__(self, attention: Any, tokens: Tensor, order: Tensor) -> None:
        """`order` (D,) is that of the channels of the image's keys."""
        super().__init__()
        key, value = attention.txt_kv_proj(tokens).chunk(2, dim=2)
        key = attention.norm_added_k(key.unflatten(2, (attention.heads, -1))).flatten(2)
        self.register_buffer("key", key[:, :, order])
        self.register_buffer("value", value.contiguous())

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if not self.key.shape[1]:
            return key, value
        fixed = (part.expand(len(key), -1, -1) for part in (self.key, self.value))
        keys, values = (torch.cat(both, dim=1) for both in zip(fixed, (key, value), strict=True))
        return keys, values


class GatedMLP(nn.Module):
    """x (N, T, D) -> gate · GEGLU(adaLN(x)), with gate and value as one product."""

    def __init__(self, block: Any, scale: Tensor, shift: Tensor, gate: Tensor) -> None:
        super().__init__()
        norm = block.post_attention_layernorm
        self.norm = nn.LayerNorm(len(gate), eps=norm.eps, elementwise_affine=False)
        self.widen = joined([after_adaln(layer, scale, shift) for layer in (block.gate_proj, block.up_proj)])
        self.activation = nn.GELU(approximate="tanh")
        self.narrow = gated(block.down_proj, gate)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.widen(self.norm(x)).chunk(2, dim=2)
        return self.narrow(self.activation(gate) * value)
