"""Tiny random checkpoints in their authors' layouts, and what their authors compute, written out here on its own.

Every reference takes x0, eps (N, C, h, w) and tau, 0 for the image and 1 for noise, and gives the tap 1.mlp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from torch import Tensor, nn

State = dict[str, Tensor]
Reference = Callable[[Tensor, Tensor, float], Tensor]
WIDTH, HEADS, LAYERS, PATCH, SIDE, CHANNELS, CLASSES = 32, 4, 3, 2, 8, 4, 5
COUNT = 2
"""Images in a batch."""


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x0, eps = torch.randn(2, COUNT, CHANNELS, SIDE, SIDE, generator=generator)
    return x0, eps


def table(scale: float = 1.0) -> Tensor:
    """(1, T, D): columns first, sines before cosines, positions divided by `scale`."""
    quarter, side = WIDTH // 4, SIDE // PATCH
    rates = [10000 ** (-k / quarter) for k in range(quarter)]
    rows = []
    for row in range(side):
        for column in range(side):
            values = [f(axis / scale * rate) for axis in (column, row) for f in (math.sin, math.cos) for rate in rates]
            rows.append(values)
    return torch.tensor(rows)[None]


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def linears(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Weights of these shapes with their biases."""
    return {
        f"{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in shapes.items()
        for kind in ("weight", "bias")
    }


def block_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.attn.qkv": (3 * WIDTH, WIDTH),
        f"{prefix}.attn.proj": (WIDTH, WIDTH),
        f"{prefix}.mlp.fc1": (4 * WIDTH, WIDTH),
        f"{prefix}.mlp.fc2": (WIDTH, 4 * WIDTH),
    }


def dit_state(learned_sigma: bool = True, rows: int = CLASSES + 1, bias: bool = True, seed: int = 0) -> State:
    """facebookresearch/DiT's and SiT's layout."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (WIDTH, CHANNELS, PATCH, PATCH),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "final_layer.linear": (PATCH * PATCH * CHANNELS * (1 + learned_sigma), WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    for i in range(LAYERS):
        shapes |= block_shapes(f"blocks.{i}") | {f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH)}
    state = filled({**linears(shapes), "y_embedder.embedding_table.weight": (rows, WIDTH)}, seed)
    if not bias:
        state = {name: value for name, value in state.items() if not name.endswith("qkv.bias")}
    return {"pos_embed": table(), **state}


def with_qk_norm(state: State) -> State:
    """The norms over a head's queries and keys of timm's attention: weights around 1, and biases."""
    width = WIDTH // HEADS
    names = [
        f"blocks.{i}.attn.{norm}_norm.{kind}" for i in range(LAYERS) for norm in "qk" for kind in ("weight", "bias")
    ]
    norms = filled(dict.fromkeys(names, (width,)), seed=5)
    return {**state, **{name: value + name.endswith("weight") for name, value in norms.items()}}


def head_normed(state: State, name: str, x: Tensor) -> Tensor:
    """Over each head alone: less its mean, over its standard deviation with an eps of 1e-5, times weight, plus bias."""
    if f"{name}.weight" not in state:
        return x
    x = x.unflatten(2, (HEADS, -1))
    x = x - x.mean(-1, keepdim=True)
    x = x / ((x**2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return (x * state[f"{name}.weight"] + state[f"{name}.bias"]).flatten(2)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def wave(t: Tensor) -> Tensor:
    angle = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    return torch.cat([angle.cos(), angle.sin()], 1)


def embedded(state: State, x: Tensor) -> Tensor:
    h = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=PATCH)
    return h.flatten(2).mT + state["pos_embed"]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int = HEADS) -> Tensor:
    q, k, v = (z.unflatten(2, (heads, -1)).transpose(1, 2) for z in (q, k, v))
    return (((q @ k.mT) / math.sqrt(q.shape[-1])).softmax(-1) @ v).transpose(1, 2).flatten(2)


def normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift


def mlp(state: State, prefix: str, x: Tensor) -> Tensor:
    h = F.gelu(linear(state, f"{prefix}.mlp.fc1", x), approximate="tanh")
    return linear(state, f"{prefix}.mlp.fc2", h)


def dit_mlp(state: State, x: Tensor, t: float, label: int) -> Tensor:
    h = embedded(state, x)
    c = F.silu(linear(state, "t_embedder.mlp.0", wave(torch.full((len(x),), t))))
    c = F.silu(linear(state, "t_embedder.mlp.2", c) + state["y_embedder.embedding_table.weight"][label])
    for i in range(2):
        parts = linear(state, f"blocks.{i}.adaLN_modulation.1", c)[:, None].chunk(6, 2)
        q, k, v = linear(state, f"blocks.{i}.attn.qkv", normed(h, parts[0], parts[1])).chunk(3, 2)
        q, k = (head_normed(state, f"blocks.{i}.attn.{n}_norm", z) for n, z in (("q", q), ("k", k)))
        h = h + parts[2] * linear(state, f"blocks.{i}.attn.proj", attention(q, k, v))
        out = mlp(state, f"blocks.{i}", normed(h, parts[3], parts[4]))
        h = h + parts[5] * out
    return out


def ddpm(tau: float) -> tuple[float, float]:
    """alpha and sigma of the index 1000·tau of DiT's schedule."""
    kept = 1.0
    for index in range(round(1000 * tau) + 1):
        kept *= 1 - (0.0001 + (0.02 - 0.0001) * index / 999)
    return math.sqrt(kept), math.sqrt(1 - kept)


PATHS: dict[str, Callable[[float], tuple[float, float]]] = {
    "linear": lambda tau: (1 - tau, tau),
    "cosine": lambda tau: (math.cos(tau * math.pi / 2), math.sin(tau * math.pi / 2)),
    "vp": lambda tau: (
        math.exp(-0.25 * tau**2 * 19.9 - 0.05 * tau),
        math.sqrt(1 - math.exp(-0.25 * tau**2 * 19.9 - 0.05 * tau) ** 2),
    ),
}


def dit(state: State, label: int = CLASSES) -> Reference:
    def tap(x0: Tensor, eps: Tensor, tau: float) -> Tensor:
        alpha, sigma = ddpm(tau)
        return dit_mlp(state, alpha * x0 + sigma * eps, 1000 * tau, label)

    return tap


def sit(state: State, towards: str = "data", path: str = "linear", label: int = CLASSES) -> Reference:
    def tap(x0: Tensor, eps: Tensor, tau: float) -> Tensor:
        alpha, sigma = PATHS[path](tau)
        return dit_mlp(state, alpha * x0 + sigma * eps, 1 - tau if towards == "data" else tau, label)

    return tap


CAPTION, TOKENS = 12, 5


def pixart_state(sized: bool = False, scale: float = 1.0, width: int = WIDTH) -> State:
    """PixArt-alpha's and -Sigma's layout; alpha's at 1024 px gets the image's size (`sized`)."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (width, CHANNELS, PATCH, PATCH),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "t_block.1": (6 * width, width),
        "y_embedder.y_proj.fc1": (width, CAPTION),
        "y_embedder.y_proj.fc2": (width, width),
        "final_layer.linear": (PATCH * PATCH * CHANNELS * 2, width),
    }
    for i in range(LAYERS):
        prefix = f"blocks.{i}.cross_attn"
        shapes |= block_shapes(f"blocks.{i}")
        shapes |= {f"{prefix}.q_linear": (width, width), f"{prefix}.kv_linear": (2 * width, width)}
        shapes |= {f"{prefix}.proj": (width, width)}
    plain: dict[str, tuple[int, ...]] = {f"blocks.{i}.scale_shift_table": (6, width) for i in range(LAYERS)}
    plain |= {"final_layer.scale_shift_table": (2, width), "y_embedder.y_embedding": (120, CAPTION)}
    assert not sized, "a width of 32 has no third for the size"
    return {"pos_embed": table(scale), **filled({**linears(shapes), **plain})}


def prompt() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "prompt": torch.randn(1, TOKENS, CAPTION, generator=generator),
        "mask": torch.tensor([[1, 1, 1, 0, 0]]),
    }


def pixart(state: State) -> Reference:
    def tap(x0: Tensor, eps: Tensor, tau: float) -> Tensor:
        alpha, sigma = ddpm(tau)
        h = embedded(state, alpha * x0 + sigma * eps)
        t = F.silu(linear(state, "t_embedder.mlp.0", wave(torch.full((len(h),), 1000 * tau))))
        t = linear(state, "t_embedder.mlp.2", t)
        t = linear(state, "t_block.1", F.silu(t)).unflatten(1, (6, -1))
        y = prompt()["prompt"][:, :3].expand(len(h), -1, -1)
        y = F.gelu(linear(state, "y_embedder.y_proj.fc1", y), approximate="tanh")
        y = linear(state, "y_embedder.y_proj.fc2", y)
        for i in range(2):
            parts = (state[f"blocks.{i}.scale_shift_table"][None] + t).chunk(6, 1)
            q, k, v = linear(state, f"blocks.{i}.attn.qkv", normed(h, parts[0], parts[1])).chunk(3, 2)
            h = h + parts[2] * linear(state, f"blocks.{i}.attn.proj", attention(q, k, v))
            k, v = linear(state, f"blocks.{i}.cross_attn.kv_linear", y).chunk(2, 2)
            q = linear(state, f"blocks.{i}.cross_attn.q_linear", h)
            h = h + linear(state, f"blocks.{i}.cross_attn.proj", attention(q, k, v))
            out = mlp(state, f"blocks.{i}", normed(h, parts[3], parts[4]))
            h = h + parts[5] * out
        return out

    return tap


SD3: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": PATCH,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": 2,
    "attention_head_dim": WIDTH // HEADS,
    "num_attention_heads": HEADS,
    "joint_attention_dim": CAPTION,
    "caption_projection_dim": WIDTH,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 6,
}


def sd3_state(qk_norm: bool = False, dual: Iterable[int] = ()) -> State:
    """Stability's layout of SD3 and SD3.5; the last block has no context but queries, keys and values."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (WIDTH, CHANNELS, PATCH, PATCH),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "y_embedder.mlp.0": (WIDTH, 10),
        "y_embedder.mlp.2": (WIDTH, WIDTH),
        "context_embedder": (WIDTH, CAPTION),
        "final_layer.linear": (PATCH * PATCH * CHANNELS, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    norms: dict[str, tuple[int, ...]] = {}
    for i in range(2):
        x, context = f"joint_blocks.{i}.x_block", f"joint_blocks.{i}.context_block"
        shapes |= block_shapes(x) | {f"{x}.adaLN_modulation.1": ((9 if i in dual else 6) * WIDTH, WIDTH)}
        if i == 1:
            shapes |= {f"{context}.attn.qkv": (3 * WIDTH, WIDTH), f"{context}.adaLN_modulation.1": (2 * WIDTH, WIDTH)}
        else:
            shapes |= block_shapes(context) | {f"{context}.adaLN_modulation.1": (6 * WIDTH, WIDTH)}
        places = [f"{x}.attn", f"{context}.attn"]
        if i in dual:
            shapes |= {f"{x}.attn2.qkv": (3 * WIDTH, WIDTH), f"{x}.attn2.proj": (WIDTH, WIDTH)}
            places.append(f"{x}.attn2")
        norms |= {f"{place}.ln_{part}.weight": (WIDTH // HEADS,) for place in places for part in "qk"}
    state = filled({**linears(shapes), **(norms if qk_norm else {}), "pos_embed": (1, 36, WIDTH)})
    return {name: 1 + value if ".ln_" in name else value for name, value in state.items()}


def sd3_condition() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "prompt": torch.randn(1, TOKENS, CAPTION, generator=generator),
        "pooled": torch.randn(1, 10, generator=generator),
    }


def sd3(model: nn.Module) -> Reference:
    """diffusers' own class, hooked."""

    def tap(x0: Tensor, eps: Tensor, tau: float) -> Tensor:
        condition = {name: value.expand(COUNT, *value.shape[1:]) for name, value in sd3_condition().items()}
        seen: list[Tensor] = []
        hook = model.transformer_blocks[1].ff.register_forward_hook(lambda _m, _i, out: seen.append(out))  # type: ignore[union-attr, index]
        model(
            hidden_states=(1 - tau) * x0 + tau * eps,
            timestep=torch.full((COUNT,), 1000 * tau),
            encoder_hidden_states=condition["prompt"],
            pooled_projections=condition["pooled"],
        )
        hook.remove()
        return seen[0]

    return tap


def sd3_of(state: State, qk_norm: bool = False, dual: Iterable[int] = ()) -> Reference:
    """diffusers' own class, filled by diffusers' own reading of Stability's layout."""
    options = {**SD3, "qk_norm": "rms_norm" if qk_norm else None, "dual_attention_layers": tuple(dual)}
    model = SD3Transformer2DModel(**options).eval()
    model.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(state)))
    return sd3(model)
