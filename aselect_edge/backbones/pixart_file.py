"""The original single files of PixArt-alpha and PixArt-Sigma: from diffusers' names to the names in these files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aselect_edge.backbones.class_conditional import sincos_positions
from aselect_edge.backbones.facebook import heads_of
from aselect_edge.backbones.store import Stored
from aselect_runtime.errors import InputError

IGNORED = (r"final_layer\.", r"y_embedder\.y_embedding$")
"""The output layer, and the embedding of prompts dropped in training: diffusers has neither."""
_SCALES = (1.0, 2.0, 0.5, 4.0)
"""Possible compression factors of positions: 2 at 1024 px, 4 at 2048 px, and so on."""
_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "adaln_single.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "adaln_single.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "adaln_single.emb.resolution_embedder.linear_1": "csize_embedder.mlp.0",
    "adaln_single.emb.resolution_embedder.linear_2": "csize_embedder.mlp.2",
    "adaln_single.emb.aspect_ratio_embedder.linear_1": "ar_embedder.mlp.0",
    "adaln_single.emb.aspect_ratio_embedder.linear_2": "ar_embedder.mlp.2",
    "adaln_single.linear": "t_block.1",
    "scale_shift_table": "final_layer.scale_shift_table",
}
_BLOCK: dict[str, tuple[str, int, int]] = {
    "attn1.to_q": ("attn.qkv", 0, 3),
    "attn1.to_k": ("attn.qkv", 1, 3),
    "attn1.to_v": ("attn.qkv", 2, 3),
    "attn1.to_out.0": ("attn.proj", 0, 1),
    "attn2.to_q": ("cross_attn.q_linear", 0, 1),
    "attn2.to_k": ("cross_attn.kv_linear", 0, 2),
    "attn2.to_v": ("cross_attn.kv_linear", 1, 2),
    "attn2.to_out.0": ("cross_attn.proj", 0, 1),
    "ff.net.0.proj": ("mlp.fc1", 0, 1),
    "ff.net.2": ("mlp.fc2", 0, 1),
}


def pixart_config(
    path: Path, shapes: Mapping[str, tuple[int, ...]], table: Tensor | None, heads: int | None = None
) -> tuple[dict[str, Any], list[str]]:
    """diffusers' `config.json` for a file of these shapes with this `pos_embed`, and the assumptions made.

    Raises InputError, also for a position table that was trained.
    """
    numbers = [int(found[1]) for name in shapes if (found := re.match(r"blocks\.(\d{1,4})\.", name))]
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        outputs = shapes["final_layer.linear.weight"][0] // patch**2
        caption = shapes["y_embedder.y_proj.fc1.weight"][1]
        side = math.isqrt(shapes["pos_embed"][1])
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: got tensor {error} missing or of another shape, expected PixArt's layout; give the diffusers "
            "folder of this model"
        ) from error
    count, said = heads_of(path, width, heads, {})
    config = {
        "_class_name": "PixArtTransformer2DModel",
        "norm_type": "ada_norm_single",
        "num_attention_heads": count,
        "attention_head_dim": width // count,
        "in_channels": channels,
        "out_channels": outputs,
        "num_layers": 1 + max(numbers),
        "cross_attention_dim": width,
        "attention_bias": "blocks.0.attn.qkv.bias" in shapes,
        "sample_size": side * patch,
        "patch_size": patch,
        "norm_eps": 1e-6,
        "norm_elementwise_affine": False,
        "caption_channels": caption,
        "interpolation_scale": _scale(path, width, side, table),
        "use_additional_conditions": "csize_embedder.mlp.0.weight" in shapes,
    }
    return config, said


def _scale(path: Path, width: int, side: int, table: Tensor | None) -> float:
    """The compression factor of the positions, found by comparing the table with each possible one."""
    for scale in _SCALES if table is not None and table.numel() == side * side * width else ():
        # Positions i / scale: those of a grid that spans `side / scale`.
        computed = sincos_positions(width, (side, side), side / scale)
        if table is not None and (table.flatten() - computed.flatten()).abs().max() < 1e-2:
            return scale
    raise InputError(
        f"{path}: got a pos_embed that is not the sine-cosine table of {side}x{side} positions, expected that; trained "
        "positions are not supported, choose another checkpoint"
    )


def pixart_place(name: str, config: Mapping[str, Any]) -> Stored:  # noqa: ARG001 - same signature as sd3_place
    """Location in a file of the parameter that diffusers calls `name`."""
    found = re.match(r"transformer_blocks\.(\d{1,4})\.(.+)$", name)
    if name in _OUTER:
        return Stored(_OUTER[name])
    if found is None:
        stem, _, leaf = name.rpartition(".")
        return Stored(f"{_OUTER[stem]}.{leaf}")
    if found[2] == "scale_shift_table":
        return Stored(f"blocks.{found[1]}.scale_shift_table")
    stem, _, leaf = found[2].rpartition(".")
    theirs, part, parts = _BLOCK[stem]
    return Stored(f"blocks.{found[1]}.{theirs}.{leaf}", part, parts)
