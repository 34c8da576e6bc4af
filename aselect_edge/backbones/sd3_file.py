"""The original single files of Stable Diffusion 3 and 3.5: from diffusers' names to the names in these files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aselect_edge.backbones.store import Stored
from aselect_runtime.errors import InputError

IGNORED = (r"final_layer\.",)
_SAMPLE = 128
"""Side of the latents of 1024 px, which all of them were trained on; no file stores it."""
_HEAD = 64
"""Channels of an attention head, the same in all of them."""
_OUTER = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
}
_BLOCK = {
    "attn.to_q": ("x_block.attn.qkv", 0),
    "attn.to_k": ("x_block.attn.qkv", 1),
    "attn.to_v": ("x_block.attn.qkv", 2),
    "attn.add_q_proj": ("context_block.attn.qkv", 0),
    "attn.add_k_proj": ("context_block.attn.qkv", 1),
    "attn.add_v_proj": ("context_block.attn.qkv", 2),
    "attn2.to_q": ("x_block.attn2.qkv", 0),
    "attn2.to_k": ("x_block.attn2.qkv", 1),
    "attn2.to_v": ("x_block.attn2.qkv", 2),
    "attn.norm_q": ("x_block.attn.ln_q", None),
    "attn.norm_k": ("x_block.attn.ln_k", None),
    "attn.norm_added_q": ("context_block.attn.ln_q", None),
    "attn.norm_added_k": ("context_block.attn.ln_k", None),
    "attn2.norm_q": ("x_block.attn2.ln_q", None),
    "attn2.norm_k": ("x_block.attn2.ln_k", None),
    "attn.to_out.0": ("x_block.attn.proj", None),
    "attn.to_add_out": ("context_block.attn.proj", None),
    "attn2.to_out.0": ("x_block.attn2.proj", None),
    "norm1.linear": ("x_block.adaLN_modulation.1", None),
    "norm1_context.linear": ("context_block.adaLN_modulation.1", None),
    "ff.net.0.proj": ("x_block.mlp.fc1", None),
    "ff.net.2": ("x_block.mlp.fc2", None),
    "ff_context.net.0.proj": ("context_block.mlp.fc1", None),
    "ff_context.net.2": ("context_block.mlp.fc2", None),
}


def sd3_config(
    path: Path, shapes: Mapping[str, tuple[int, ...]], heads: int | None = None
) -> tuple[dict[str, Any], list[str]]:
    """diffusers' `config.json` for a file of these shapes, and the assumptions made; raises InputError."""
    numbers = [int(found[1]) for name in shapes if (found := re.match(r"joint_blocks\.(\d{1,4})\.", name))]
    dual = {
        int(found[1]) for name in shapes if (found := re.match(r"joint_blocks\.(\d{1,4})\.x_block\.attn2\.qkv", name))
    }
    norm = shapes.get("joint_blocks.0.x_block.attn.ln_q.weight")
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        head = width // heads if heads else norm[0] if norm else _HEAD
        config = {
            "_class_name": "SD3Transformer2DModel",
            "sample_size": _SAMPLE,
            "patch_size": patch,
            "in_channels": channels,
            "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
            "num_layers": 1 + max(numbers),
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": shapes["context_embedder.weight"][1],
            "caption_projection_dim": shapes["context_embedder.weight"][0],
            "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
            "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
            "dual_attention_layers": sorted(dual),
            "qk_norm": None if norm is None else "rms_norm",
        }
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: got tensor {error} missing or of another shape, expected Stable Diffusion 3's layout; give the "
            "diffusers folder of this model"
        ) from error
    if width % head:
        raise InputError(
            f"{path}: got the width {width}, expected a multiple of {head}, the channels of a head; give the number of "
            "heads",
            parameter="num_heads",
        )
    return config, [f"trained on {_SAMPLE}x{_SAMPLE} latents", f"{width // head} heads of {head} channels"]


def sd3_place(name: str, config: Mapping[str, Any]) -> Stored:
    """Location in a file of the parameter that diffusers calls `name`."""
    if name in _OUTER:
        return Stored(_OUTER[name])
    stem, _, leaf = name.rpartition(".")
    found = re.match(r"transformer_blocks\.(\d{1,4})\.(.+)$", stem)
    if found is None:
        return Stored(f"{_OUTER[stem]}.{leaf}")
    theirs, part = _BLOCK[found[2]]
    # The last block only computes the prompt's keys and values: in diffusers its norm has the scale before the shift.
    swapped = found[2] == "norm1_context.linear" and int(found[1]) == config["num_layers"] - 1
    stored = Stored(f"joint_blocks.{found[1]}.{theirs}.{leaf}", swapped=swapped)
    return stored if part is None else stored._replace(part=part, parts=3)
