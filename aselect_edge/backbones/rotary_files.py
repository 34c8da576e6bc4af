"""The original files of LightningDiT and JiT: one checkpoint, timm's names, q, k and v in one tensor.

Known only from the published models, not from the shapes: the block where JiT's context tokens start. The tables of
positions and of RoPE in a file must equal the computed ones; RoPE's tables also show the size of a head, and that RoPE
is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aselect_edge.backbones.accounting import Layout, check_layout, meaning_of
from aselect_edge.backbones.class_conditional import sincos_positions
from aselect_edge.backbones.facebook import IMAGENET
from aselect_edge.backbones.jit import JiT
from aselect_edge.backbones.lightningdit import LightningDiT
from aselect_edge.backbones.rotary import RotaryDiT
from aselect_edge.backbones.rotary_config import RotaryConfig, rotary_angles
from aselect_edge.backbones.store import Stored, WeightStore
from aselect_runtime.errors import InputError, IntegrityError

Shapes = Mapping[str, tuple[int, ...]]

STATISTICS = "latents_stats.pt"
"""Mean and std of the latents that a LightningDiT was trained on, in the folder of its weights."""
IGNORED = r"final_layer\."
"""Tensors that no tap depends on."""
CONTEXT_STARTS = {12: 4, 24: 8, 32: 10}
"""Depth of the published JiTs (B, L, H) -> the block where the context tokens start."""
_CONTEXT, _LABELS = "in_context_posemb", "y_embedder.embedding_table.weight"
_PAIR = ("weight", "bias")
_BLOCK = {"adaln": "adaLN_modulation.1", "out": "attn.proj"}
_MLP = {True: {"mlp_in": "mlp.w12", "mlp_out": "mlp.w3"}, False: {"mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2"}}


@dataclass(frozen=True)
class AuthorsFile:
    """The content of an original file."""

    kind: type[RotaryDiT]
    config: dict[str, Any]

    def places(self, depth: int | None = None) -> dict[str, Stored]:
        """Name in the model -> location in the file, for the first `depth` blocks (all by default)."""
        return rotary_places(RotaryConfig.from_json(self.kind.family, self.config), depth)


def authors_file(path: Path, store: WeightStore, family: str | None = None, heads: int | None = None) -> AuthorsFile:
    """The content of a file in LightningDiT's or JiT's layout (`kinds`); an unknown tensor is refused.

    Raises InputError if `family` or `heads` contradict the file, or for an unknown tensor.
    """
    shapes = {name: held.shape for name, held in store.held.items()}
    kind = JiT if "x_embedder.proj1.weight" in shapes else LightningDiT
    if family not in (None, kind.family):
        raise InputError(
            f"{path}: got the family {family} for a file of {kind.family}, expected {kind.family}; leave it out",
            parameter="family",
        )
    try:
        config = _config(path, kind, shapes)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: got {kind.__name__}{meaning_of(shapes)} with {error} missing or of another shape, "
            f"expected the authors' layout of {kind.__name__}; this variant is not supported, choose another checkpoint"
        ) from error
    if heads not in (None, config["num_attention_heads"]):
        raise InputError(
            f"{path}: got {heads} heads, expected {config['num_attention_heads']} as in the file; leave it out",
            parameter="num_heads",
        )
    read = RotaryConfig.from_json(kind.family, config)
    places = rotary_places(read)
    known = frozenset(stored.name for stored in places.values())
    check_layout(store, Layout(places, known, (IGNORED,), rotary_tables(read)), str(path))
    return AuthorsFile(kind, config)


def _config(path: Path, kind: type[RotaryDiT], shapes: Shapes) -> dict[str, Any]:
    jit = kind is JiT
    first = shapes["x_embedder.proj1.weight" if jit else "x_embedder.proj.weight"]
    (_, tokens, width), rows = shapes["pos_embed"], shapes[_LABELS][0]
    head = shapes["blocks.0.attn.q_norm.weight"][0] if jit else shapes["feat_rope.freqs_cos"][1]
    layers = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    side, gated = math.isqrt(tokens), "blocks.0.mlp.w3.weight" in shapes
    if side * side != tokens:
        raise IntegrityError(f"{path}: got {tokens} positions, expected a square number; download it again")
    config: dict[str, Any] = {
        "num_attention_heads": width // head,
        "attention_head_dim": head,
        "in_channels": first[1],
        "num_layers": layers,
        "sample_size": side * first[2],
        "patch_size": first[2],
        "num_embeds_ada_norm": rows if rows == IMAGENET else rows - 1,
        "mlp_width": shapes[f"blocks.0.{_MLP[gated]['mlp_out']}.weight"][1],
        "null_class": rows != IMAGENET,
        "norm": "rms" if "blocks.0.norm1.weight" in shapes else "layer",
        "gated": gated,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "shift": shapes["blocks.0.adaLN_modulation.1.weight"][0] == 6 * width,
    }
    if jit:
        context = shapes[_CONTEXT][1] if _CONTEXT in shapes else 0
        return {**config, "bottleneck": first[0], **_context(path, context, layers)}
    return {**config, **_statistics(path, first[1])}


def _context(path: Path, tokens: int, layers: int) -> dict[str, int]:
    if tokens and layers not in CONTEXT_STARTS:
        raise InputError(
            f"{path}: got context tokens in a JiT of {layers} blocks, expected {', '.join(map(str, CONTEXT_STARTS))}: "
            "the block where they start is only known for the published models; give one of these"
        )
    return {"context_tokens": tokens, "context_start": CONTEXT_STARTS[layers] if tokens else 0}


def _statistics(path: Path, channels: int) -> dict[str, list[float]]:
    """Mean and std of each channel of the latents; raises InputError if they are not in the file's folder."""
    file = path.parent / STATISTICS
    if not file.is_file():
        raise InputError(
            f"{path}: got LightningDiT, by its rotary positions (RoPE), without {STATISTICS} in its folder, expected "
            "the mean and std that its latents are normalised with; put the file that was published with the weights "
            "there"
        )
    store = WeightStore([file], {name: Stored(name) for name in ("mean", "std")})
    if not store.has("mean") or not store.has("std"):
        raise InputError(f"{file}: got no mean and std, expected both; download it again")
    values = {name: tensor.flatten().tolist() for name, tensor in store.read(("mean", "std"))}
    wrong = [
        name for name, numbers in values.items() if len(numbers) != channels or not all(map(math.isfinite, numbers))
    ]
    if wrong or min(values["std"]) <= 0:
        raise InputError(
            f"{file}: got {len(values['mean'])} means and {len(values['std'])} stds, expected {channels} finite "
            "numbers each, the stds positive; give the file that belongs to these weights"
        )
    return {"latents_mean": values["mean"], "latents_std": values["std"]}


def rotary_places(config: RotaryConfig, depth: int | None = None) -> dict[str, Stored]:
    """Name in `RotaryDiT` -> location in the original file, for the first `depth` blocks (all by default)."""
    layers = config.num_layers if depth is None else min(depth, config.num_layers)
    outer = {"conditioning.time_in": "t_embedder.mlp.0", "conditioning.time_out": "t_embedder.mlp.2"}
    if config.bottleneck is None:
        outer["patch_embed"] = "x_embedder.proj"
    else:
        outer["widen"] = "x_embedder.proj2"
    places = {f"{ours}.{kind}": Stored(f"{theirs}.{kind}") for ours, theirs in outer.items() for kind in _PAIR}
    places["conditioning.label.weight"] = Stored(_LABELS)
    if config.bottleneck is not None:
        places["patch_embed.weight"] = Stored("x_embedder.proj1.weight")
    if config.context_tokens and layers > config.context_start:
        places["context"] = Stored(_CONTEXT)
    for index in range(layers):
        places |= {f"blocks.{index}.{ours}": stored for ours, stored in _block_places(config, index).items()}
    return places


def _block_places(config: RotaryConfig, index: int) -> dict[str, Stored]:
    inside = f"blocks.{index}."
    names = _BLOCK | _MLP[config.gated]
    places = {f"{ours}.{kind}": Stored(f"{inside}{theirs}.{kind}") for ours, theirs in names.items() for kind in _PAIR}
    for part, ours in enumerate(("query", "key", "value")):
        places |= {f"{ours}.{kind}": Stored(f"{inside}attn.qkv.{kind}", part, 3) for kind in _PAIR}
    if config.norm == "rms":
        places |= {f"{norm}.weight": Stored(f"{inside}{norm}.weight") for norm in ("norm1", "norm2")}
    if config.qk_norm:
        kinds = ("weight",) if config.norm == "rms" else _PAIR
        names = {"query_norm": "attn.q_norm", "key_norm": "attn.k_norm"}
        places |= {f"{o}.{kind}": Stored(f"{inside}{t}.{kind}") for o, t in names.items() for kind in kinds}
    return places


def rotary_tables(config: RotaryConfig) -> dict[str, Tensor]:
    """The tensors of the original file that are computed, by their names there."""
    grid = (config.base, config.base)
    angles = rotary_angles(config.attention_head_dim, grid, config.base).repeat_interleave(2, dim=1)  # (T, d)
    turned = {"cos": angles.cos(), "sin": angles.sin()}
    tables = {"pos_embed": sincos_positions(config.width, grid, config.base)[None]}
    for name, table in turned.items():
        still = torch.full((config.context_tokens, table.shape[1]), float(name == "cos"))
        tables[f"feat_rope.freqs_{name}"] = table.float()
        tables[f"feat_rope_incontext.freqs_{name}"] = torch.cat([still, table.float()])
    return tables
