"""The checkpoints of facebookresearch/DiT and of SiT: one file, timm's names, q, k and v in one tensor.

Where the formulas differ from diffusers' the config says so: the sinusoid's divisor is 128, both LayerNorms of a
block have an eps of 1e-6, all blocks share one conditioning. The position table in the file is the one that
`sincos_positions` computes, so it is not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aselect_edge.backbones.dit import DiTConfig
from aselect_edge.backbones.store import Stored, shapes_of
from aselect_runtime.errors import InputError, IntegrityError

HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}
"""Attention heads of the published widths (XL, L, B, S); a file does not say."""
IMAGENET = 1000
"""A label table of exactly so many rows has no row for "no class"; any other is taken to end with it."""

_OUTER = {
    "patch_embed": "x_embedder.proj",
    "conditioning.0.time_in": "t_embedder.mlp.0",
    "conditioning.0.time_out": "t_embedder.mlp.2",
    "final_adaln": "final_layer.adaLN_modulation.1",
    "final": "final_layer.linear",
}
_BLOCK = {
    "adaln": "adaLN_modulation.1",
    "out": "attn.proj",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
_TABLE = "y_embedder.embedding_table.weight"


def family_of_file(path: Path, family: str | None) -> str:
    """`family` if given, else what the file's name says; raises InputError where it says nothing."""
    if family is not None:
        return family
    named = re.search(r"(?i)(?<![a-z])([ds]it)(?![a-z])", path.stem)
    if not named:
        raise InputError(
            f"{path}: got a file name that tells no family, expected DiT or SiT in it; give the family, dit or sit",
            parameter="family",
        )
    return named[1].lower()


def facebook_config(path: Path, heads: int | None = None) -> dict[str, Any]:
    """The `config.json` that says what the file's shapes and this layout's formulas are; raises InputError."""
    shapes = shapes_of(path)
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        tokens, rows = shapes["pos_embed"][1], shapes[_TABLE][0]
        outputs = shapes["final_layer.linear.weight"][0] // patch**2
        layers = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: got no tensor {error} or of another shape, expected the layout of facebookresearch/DiT; give a "
            "checkpoint of DiT or SiT, or a diffusers folder"
        ) from error
    count = heads or HEADS.get(width)
    if count is None or width % count:
        raise InputError(
            f"{path}: got the width {width}{f' and {heads} heads' if heads else ''}, expected "
            f"{', '.join(map(str, HEADS))} or the number of heads, which divides it; give that number",
            parameter="num_heads",
        )
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise IntegrityError(f"{path}: got {tokens} positions, expected a square of them; download it again")
    config = {
        "num_attention_heads": count,
        "attention_head_dim": width // count,
        "in_channels": channels,
        "out_channels": outputs,
        "num_layers": layers,
        "attention_bias": "blocks.0.attn.qkv.bias" in shapes,
        "sample_size": side * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": rows if rows == IMAGENET else rows - 1,
        "norm_eps": 1e-6,
        "frequency_shift": 0,
        "null_class": rows != IMAGENET,
    }
    return {**DiTConfig.from_json(config).to_json(), "tied": True}


def facebook_places(config: Mapping[str, Any], depth: int | None = None) -> dict[str, Stored]:
    """Name in `DiT` -> place in the file, for the first `depth` blocks (all, and the output layer, by default)."""
    places = {"conditioning.0.label.weight": Stored(_TABLE)}
    kinds = ("weight", "bias")
    for ours, theirs in _OUTER.items():
        if depth is None or not ours.startswith("final"):
            places |= {f"{ours}.{kind}": Stored(f"{theirs}.{kind}") for kind in kinds}
    for index in range(config["num_layers"] if depth is None else min(depth, config["num_layers"])):
        for ours, theirs in _BLOCK.items():
            places |= {f"blocks.{index}.{ours}.{kind}": Stored(f"blocks.{index}.{theirs}.{kind}") for kind in kinds}
        for part, ours in enumerate(("query", "key", "value")):
            for kind in kinds if config["attention_bias"] else kinds[:1]:
                places[f"blocks.{index}.{ours}.{kind}"] = Stored(f"blocks.{index}.attn.qkv.{kind}", part, 3)
    return places
