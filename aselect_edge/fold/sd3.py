"""SD3 folded: two streams with adaLN and gates merged into the linear layers, and only the context that is read.

The context stream depends on the image from the first joint attention on, and only on the prompt before it: the
context's queries, keys and values in block 0 are constants. Backwards from the deepest tap, block K: block K reads keys
and values of the context only if its attention is needed, and then block K - 1 must pass the stream on; otherwise
block K - 1 is the last to read keys and values, and the stream ends there.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones.sd3 import SD3
from aselect_edge.fold.algebra import FoldedEmbedding, after_adaln, attend, gated, joined
from aselect_edge.fold.parts import PROJECTIONS, STAGE, WHOLE, CutBlock, FoldedMLP, cuts, head_norm, per_head, scaled
from aselect_edge.fold.spec import Folded, FoldSpec
from aselect_runtime.records import Component, Tap

Context = Literal["none", "read", "carried"]
"""How a block uses its context: not at all, attends to it, or also passes it on to the next block."""


def contexts(deepest: int, end: int) -> list[Context]:
    """The use of the context in each block up to the deepest tap's, which ends after stage `end`."""
    attends = [True] * deepest + [end >= STAGE["attn"]]
    goes_on = [*attends[1:], False]
    return ["carried" if on else "read" if reads else "none" for reads, on in zip(attends, goes_on, strict=True)]


class FoldedSD3(Folded):
    """values (N, C, h, w) -> one feature map (N, rows, columns, D) per tap."""

    context: Tensor

    def __init__(self, model: SD3, spec: FoldSpec) -> None:
        super().__init__()
        self.taps, self.grid = spec.taps, model.grid(*spec.size)
        whole = model.model
        self.embed = FoldedEmbedding(whole.pos_embed.proj, model.positions(self.grid), spec)
        c = whole.time_text_embed(torch.tensor([spec.noise.model_timestep]), spec.condition["pooled"])  # (1, D)
        constant = whole.context_embedder(spec.condition["prompt"])  # (1, L, D)
        blocks = list(cuts(spec))
        uses = contexts(spec.deepest, blocks[-1][2])
        if uses[0] == "carried":
            self.register_buffer("context", constant)
        self.blocks = nn.ModuleList()
        for (index, wanted, end), use in zip(blocks, uses, strict=True):
            block = whole.transformer_blocks[index]
            with model.held(*_read(block, end, wanted)):
                self.blocks.append(FoldedBlock(block, c, wanted, end, use, constant if index == 0 else None))

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        x = self.embed(values)  # (N·K, T, D)
        context = self.context.expand(x.shape[0], -1, -1) if "context" in self._buffers else None
        seen: dict[Tap, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x, context, read = block(x, context)
            seen |= {Tap(block=index, component=component): value for component, value in read.items()}
        return tuple(self.embed.mean(seen[tap]).unflatten(1, self.grid) for tap in self.taps)


class FoldedBlock(CutBlock):
    """A joint block at a fixed condition, truncated after stage `end`, with its tapped components and context `use`.

    `constant` is the context (1, L, D) of block 0.
    """

    def __init__(
        self,
        block: Any,
        c: Tensor,
        wanted: frozenset[Component],
        end: int,
        use: Context,
        constant: Tensor | None,
    ) -> None:
        super().__init__(wanted, end, block.attn.heads)
        self.use = use
        if end == 0:
            return
        m = modulation(block.norm1, c)
        norm = nn.LayerNorm(c.shape[1], eps=block.norm1.norm.eps, elementwise_affine=False)
        self._take_norm(norm, m["scale1"], m["shift1"])
        if end == 1:
            return
        self._project(block, m)
        if end == 2:
            return
        self._take_out(block.attn.to_out[0], m["gate1"])
        self._take_context(block, c, constant)
        if end == 3:
            return
        if self.dual:
            self.out2 = gated(block.attn2.to_out[0], m["gate3"])
        self.mlp = FoldedMLP(block.norm2, block.ff, m["scale2"], m["shift2"], self._take_gate(m["gate2"]))

    def _project(self, block: Any, m: dict[str, Tensor]) -> None:
        """One product for all projections of the normalised image tokens; and the norms of its heads."""
        attends, self.dual = self.end >= STAGE["attn"], block.attn2 is not None and self.end >= STAGE["mlp"]
        # Beyond the projections all three are needed; in a block truncated there, only those that are read.
        self.projections = [p for p in PROJECTIONS if attends or p in self.wanted]
        root = block.attn.inner_dim // self.heads
        normalised = block.attn.norm_q is not None
        # If queries are normalised, the norm's weight takes the softmax scale; else the projection, if no tap reads it.
        self.scale = 1.0 if normalised or "query" not in self.wanted else root**-0.5
        into_query = root**-0.5 if attends and not normalised and self.scale == 1.0 else 1.0
        parts = [after_adaln(_projection(block.attn, name), m["scale1"], m["shift1"]) for name in self.projections]
        parts = [
            scaled(part, into_query if name == "query" else 1.0)
            for name, part in zip(self.projections, parts, strict=True)
        ]
        if attends:
            self.query_norm = head_norm(block.attn.norm_q, root**-0.5)
            self.key_norm = head_norm(block.attn.norm_k)
        if self.dual:
            second = [after_adaln(_projection(block.attn2, name), m["scale3"], m["shift3"]) for name in PROJECTIONS]
            parts += [scaled(second[0], 1.0 if normalised else root**-0.5), *second[1:]]
            self.query_norm2 = head_norm(block.attn2.norm_q, root**-0.5)
            self.key_norm2 = head_norm(block.attn2.norm_k)
        self.project = joined(parts)

    def _take_context(self, block: Any, c: Tensor, constant: Tensor | None) -> None:
        carried = self.use == "carried"
        tokens = ContextTokens(block, c, carried, self.scale)
        self.context_tokens = tokens if constant is None else ConstantTokens(tokens(constant))
        if carried:
            m = modulation(block.norm1_context, c)
            self.context_out = gated(block.attn.to_add_out, m["gate1"])
            self.context_mlp = FoldedMLP(block.norm2_context, block.ff_context, m["scale2"], m["shift2"], m["gate2"])

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, dict[Component, Tensor]]:
        """x (N, T, D), context (N, L, D) -> the next block's (undefined after a truncation) and tapped components."""
        seen: dict[Component, Tensor] = {"hidden": x}
        if self.end >= 1:
            h = self._normalise(x, seen)
        if self.end >= 2:
            parts = self.project(h).split(x.shape[2], dim=2)
            seen |= dict(zip(self.projections, parts, strict=False))
        if self.end >= 3:
            attended = self._attend(parts, context)
            h = self.out(attended[:, : x.shape[1]] if self.use == "carried" else attended)
            h = self._gate_attention(h, seen)
            if self.use == "carried":
                context = context + self.context_out(attended[:, x.shape[1] :])
                context = context + self.context_mlp(context)
        if self.end >= 4:
            x = x + h
            if self.dual:
                x = x + self.out2(self._attend_alone(parts[3:]))
            h = self.mlp(x)
            seen["mlp"] = h
        if self.end == WHOLE:
            x = x + self._gate_mlp(h)
        return x, context, self._read(seen)

    def _attend(self, parts: tuple[Tensor, ...], context: Tensor | None) -> Tensor:
        """Image tokens, followed by those of a context that is passed on, attend to all tokens of both."""
        q, k = per_head(parts[0], self.query_norm, self.heads), per_head(parts[1], self.key_norm, self.heads)
        *queries, keys, values = self.context_tokens(q if context is None else context)
        q = torch.cat([q, *queries], dim=1) if queries else q
        k, v = torch.cat([k, keys], dim=1), torch.cat([parts[2], values], dim=1)
        return attend(q, k, v, self.heads, self.scale)

    def _attend_alone(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The second attention of a dual block: image tokens to image tokens."""
        q, k = per_head(parts[0], self.query_norm2, self.heads), per_head(parts[1], self.key_norm2, self.heads)
        return attend(q, k, parts[2], self.heads)


class ContextTokens(nn.Module):
    """context (N, L, D) -> its queries (if it is passed on), keys and values (N, L, D) for joint attention."""

    def __init__(self, block: Any, c: Tensor, carried: bool, scale: float) -> None:
        """`scale` is the factor that the attention applies to queries; the remaining softmax scale is applied here."""
        super().__init__()
        attn, m = block.attn, modulation(block.norm1_context, c)
        self.heads, self.count = attn.heads, 3 if carried else 2
        self.norm = nn.LayerNorm(c.shape[1], eps=block.norm1_context.norm.eps, elementwise_affine=False)
        layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)[-self.count :]
        parts = [after_adaln(layer, m["scale1"], m["shift1"]) for layer in layers]
        left = (attn.inner_dim // attn.heads) ** -0.5 / scale
        normalised = attn.norm_added_q is not None
        if carried and not normalised:
            parts[0] = scaled(parts[0], left)
        self.projection = joined(parts)
        self.query_norm = head_norm(attn.norm_added_q, left) if carried else None
        self.key_norm = head_norm(attn.norm_added_k)

    def forward(self, context: Tensor) -> tuple[Tensor, ...]:
        *query, key, value = self.projection(self.norm(context)).chunk(self.count, dim=2)
        queries = [per_head(q, self.query_norm, self.heads) for q in query]
        return (*queries, per_head(key, self.key_norm, self.heads), value)


class ConstantTokens(nn.Module):
    """The same for block 0, whose context does not depend on the image: constants, repeated for the batch."""

    def __init__(self, tokens: tuple[Tensor, ...]) -> None:
        """`tokens` (1, L, D) each: queries if the context is passed on, keys, values."""
        super().__init__()
        for name, value in zip(PROJECTIONS[-len(tokens) :], tokens, strict=True):
            self.register_buffer(name, value.contiguous())

    def forward(self, context: Tensor) -> tuple[Tensor, ...]:
        """`context` only gives the batch size."""
        return tuple(value.expand(context.shape[0], -1, -1) for value in self.buffers())


def modulation(norm: Any, c: Tensor) -> dict[str, Tensor]:
    """The modulation that diffusers' adaLN computes from c (1, D): shift, scale, gate (D,) by name, float64.

    Suffix 1 is joint attention, 2 the MLP, 3 the second attention. The adaLN of a context that ends in its block has
    only a scale and a shift, in this order.
    """
    values = norm.linear(F.silu(c))[0].double().split(c.shape[1])
    names = [f"{kind}{index}" for index in (1, 2, 3) for kind in ("shift", "scale", "gate")]
    return dict(zip(names if len(values) > 2 else ("scale1", "shift1"), values, strict=False))


def _read(block: Any, end: int, wanted: frozenset[Component]) -> list[nn.Module]:
    """The modules of a block that the fold reads, if it ends after stage `end`."""
    if end > STAGE["query"]:
        return [block]
    return [block.norm1, *(_projection(block.attn, name) for name in PROJECTIONS if name in wanted)] if end else []


def _projection(attn: Any, name: Component) -> nn.Linear:
    layers: dict[Component, nn.Linear] = {"query": attn.to_q, "key": attn.to_k, "value": attn.to_v}
    return layers[name]
