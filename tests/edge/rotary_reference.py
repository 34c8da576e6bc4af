"""LightningDiT and JiT written down plainly from their papers, on the tensors of a checkpoint in the authors' layout.

A second implementation to hold the project's against: RoPE by complex numbers, one loop over the blocks, no class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
BASE, PATCH, CLASSES = 4, 2, 5
"""Tokens on a side of the square, pixels of a patch, classes besides "no class"."""


@dataclass(frozen=True)
class Kind:
    """A variant of the two architectures, small."""

    channels: int
    layers: int = 3
    heads: int = 2
    head: int = 8
    hidden: int = 20
    rms: bool = True
    gated: bool = True
    qk_norm: bool = False
    shift: bool = True
    bottleneck: int = 0
    context: int = 0
    start: int = 0

    @property
    def width(self) -> int:
        return self.heads * self.head


KINDS = {
    "jit": Kind(3, layers=12, qk_norm=True, bottleneck=6, context=5, start=4),
    "lightningdit": Kind(6),
    "lightningdit-qknorm": Kind(6, qk_norm=True, heads=3, head=4),
    "lightningdit-layernorm": Kind(6, rms=False, gated=False, qk_norm=True, shift=False),
}
"""The published LightningDiT is the second."""


def checkpoint(kind: Kind, seed: int = 0) -> State:
    """Random weights under the authors' names; norms' weights around 1."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 0.1)

    width, state = kind.width, State()

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = random(*shape)
        if bias:
            state[f"{name}.bias"] = random(shape[0])

    if kind.bottleneck:
        layer("x_embedder.proj1", kind.bottleneck, kind.channels, PATCH, PATCH, bias=False)
        layer("x_embedder.proj2", width, kind.bottleneck, 1, 1)
        state["in_context_posemb"] = random(1, kind.context, width)
    else:
        layer("x_embedder.proj", width, kind.channels, PATCH, PATCH)
    layer("t_embedder.mlp.0", width, 256)
    layer("t_embedder.mlp.2", width, width)
    layer("y_embedder.embedding_table", CLASSES + 1, width, bias=False)
    state["pos_embed"] = positions(kind, (BASE, BASE))[None]
    turns = angles(kind, (BASE, BASE)).repeat_interleave(2, 1)
    state["feat_rope.freqs_cos"], state["feat_rope.freqs_sin"] = turns.cos(), turns.sin()
    if kind.context:
        still = torch.zeros(kind.context, kind.head)
        state["feat_rope_incontext.freqs_cos"] = torch.cat([still + 1, turns.cos()])
        state["feat_rope_incontext.freqs_sin"] = torch.cat([still, turns.sin()])
    for i in range(kind.layers):
        layer(f"blocks.{i}.attn.qkv", 3 * width, width)
        layer(f"blocks.{i}.attn.proj", width, width)
        layer(f"blocks.{i}.adaLN_modulation.1", (6 if kind.shift else 4) * width, width)
        if kind.gated:
            layer(f"blocks.{i}.mlp.w12", 2 * kind.hidden, width)
            layer(f"blocks.{i}.mlp.w3", width, kind.hidden)
        else:
            layer(f"blocks.{i}.mlp.fc1", kind.hidden, width)
            layer(f"blocks.{i}.mlp.fc2", width, kind.hidden)
        for norm in ("norm1", "norm2") if kind.rms else ():
            state[f"blocks.{i}.{norm}.weight"] = 1 + random(width)
        for norm in ("attn.q_norm", "attn.k_norm") if kind.qk_norm else ():
            state[f"blocks.{i}.{norm}.weight"] = 1 + random(kind.head)
            if not kind.rms:
                state[f"blocks.{i}.{norm}.bias"] = random(kind.head)
    layer("final_layer.linear", PATCH * PATCH * kind.channels, width)
    layer("final_layer.adaLN_modulation.1", 2 * width, width)
    return state


def save(folder: Path, kind: Kind, name: str = "checkpoint.pt", content: Any = None) -> str:
    """The file, and beside it the statistics of the latents that a LightningDiT needs."""
    torch.save(checkpoint(kind) if content is None else content, folder / name)
    mean, std = statistics(kind.channels)
    if not kind.bottleneck:
        torch.save({"mean": mean[None, :, None, None], "std": std[None, :, None, None]}, folder / "latents_stats.pt")
    return str(folder / name)


def statistics(channels: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, channels), torch.linspace(0.5, 3, channels)


def places(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column (T,) of each token, in tokens of the trained square."""
    row, column = torch.meshgrid(torch.arange(grid[0]).double(), torch.arange(grid[1]).double(), indexing="ij")
    return row.flatten() * BASE / grid[0], column.flatten() * BASE / grid[1]


def positions(kind: Kind, grid: tuple[int, int]) -> Tensor:
    """(T, D): sines and cosines of the column, then of the row."""
    row, column = places(grid)
    omega = torch.tensor([10000.0 ** (-4 * i / kind.width) for i in range(kind.width // 4)], dtype=torch.float64)
    parts = [f(axis[:, None] * omega) for axis in (column, row) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, 1).float()


def angles(kind: Kind, grid: tuple[int, int]) -> Tensor:
    """(T, head / 2): half of the pairs turn with the row, half with the column."""
    row, column = places(grid)
    half = kind.head // 2
    omega = torch.tensor([10000.0 ** (-2 * i / half) for i in range(half // 2)], dtype=torch.float64)
    return torch.cat([row[:, None] * omega, column[:, None] * omega], 1)


def formula(kind: Kind, state: State, x: Tensor, t: Tensor, y: Tensor) -> State:
    """Every component of the image's tokens, by its tap's name, of x (N, C, h, w) at the times t and classes y."""
    seen: State = {}
    grid = (x.shape[2] // PATCH, x.shape[3] // PATCH)

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, value: Tensor, learnt: bool, eps: float = 1e-6) -> Tensor:
        if kind.rms:
            return value * (value.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * state[f"{name}.weight"]
        value = value - value.mean(-1, keepdim=True)
        value = value * (value.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
        return value * state[f"{name}.weight"] + state[f"{name}.bias"] if learnt else value

    wave = t[:, None] * torch.tensor([10000.0 ** (-i / 128) for i in range(128)])
    time = linear("t_embedder.mlp.0", torch.cat([wave.cos(), wave.sin()], 1))
    time = linear("t_embedder.mlp.2", time * time.sigmoid())
    label = state["y_embedder.embedding_table.weight"][y]
    c = time + label
    c = c * c.sigmoid()

    patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    if kind.bottleneck:
        h = patches @ state["x_embedder.proj1.weight"].flatten(1).T
        h = h @ state["x_embedder.proj2.weight"].flatten(1).T + state["x_embedder.proj2.bias"]
    else:
        h = patches @ state["x_embedder.proj.weight"].flatten(1).T + state["x_embedder.proj.bias"]
    h = h + positions(kind, grid)
    turns = torch.polar(torch.ones_like(angles(kind, grid)), angles(kind, grid))

    def turned(value: Tensor, count: int) -> Tensor:
        pairs = torch.view_as_complex(value.double().unflatten(-1, (-1, 2)).contiguous())
        pairs = torch.cat([pairs[:, :, :count], pairs[:, :, count:] * turns], 2)
        return torch.view_as_real(pairs).flatten(-2).float()

    count = 0
    for i in range(kind.layers):
        if kind.context and i == kind.start:
            h = torch.cat([label[:, None] + state["in_context_posemb"], h], 1)
            count = kind.context
        block = f"blocks.{i}."
        m = linear(f"{block}adaLN_modulation.1", c)[:, None].chunk(6 if kind.shift else 4, 2)
        b1, s1, g1, b2, s2, g2 = m if kind.shift else (0.0, m[0], m[1], 0.0, m[2], m[3])
        a = norm(f"{block}norm1", h, False) * (1 + s1) + b1
        q, k, v = linear(f"{block}attn.qkv", a).chunk(3, 2)
        read = {"hidden": h, "adaln": a, "query": q, "key": k, "value": v}
        q, k, v = (z.unflatten(2, (kind.heads, kind.head)).transpose(1, 2) for z in (q, k, v))
        if kind.qk_norm:
            q, k = norm(f"{block}attn.q_norm", q, True, 1e-5), norm(f"{block}attn.k_norm", k, True, 1e-5)
        scores = turned(q, count) @ turned(k, count).transpose(2, 3) / math.sqrt(kind.head)
        a = linear(f"{block}attn.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        read |= {"attn": a, "attn_gated": g1 * a}
        h = h + g1 * a
        a = norm(f"{block}norm2", h, False) * (1 + s2) + b2
        if kind.gated:
            gate, value = linear(f"{block}mlp.w12", a).chunk(2, 2)
            a = linear(f"{block}mlp.w3", gate * gate.sigmoid() * value)
        else:
            u = linear(f"{block}mlp.fc1", a)
            u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
            a = linear(f"{block}mlp.fc2", u)
        read["mlp"] = a
        h = h + g2 * a
        seen |= {f"{i}.{name}": value[:, count:] for name, value in read.items()}
    return seen
