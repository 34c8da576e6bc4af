"""The checkpoints of facebookresearch/DiT, SiT and REPA: one file, timm's names, q, k and v in one tensor.

Where the formulas differ from diffusers', the config holds it: the sinusoid's divisor is 128, both LayerNorms of a
block have an eps of 1e-6, all blocks share one conditioning. The position table in the file must equal the one that
`sincos_positions` computes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.backbones.store import Stored
from aselect_runtime.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}
"""Width -> attention heads of the published models (XL, L, B, S); a file does not store the number of heads."""
IMAGENET = 1000
"""A label table with this number of rows has no row for "no class"; any other is assumed to end with that row."""

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
_PAIR = ("weight", "bias")
_NORMS = {"query_norm": "attn.q_norm", "key_norm": "attn.k_norm"}
_QUERY_NORM = "blocks.0.attn.q_norm.weight"
_NUMBER = re.compile(r"blocks\.(\d{1,4})\.")
IGNORED = (r"final_layer\.", r"projectors?\.", r"ap_head\.")
"""Tensors that no tap depends on: the output layer, and the training heads of REPA, iREPA, SRA and Self-Flow."""
_PATCHES = "x_embedder.proj.weight"
_LINEAR_PATCH = 2
"""Patch size of the published models with a linear patch embedding (Self-Flow); its shape does not determine it."""
_TABLE = "y_embedder.embedding_table.weight"


def family_of_file(path: Path, family: str | None, shapes: Shapes, args: Mapping[str, Any]) -> tuple[str, str]:
    """The family and the reason: `family` if given, else from the file's metadata, tensors or name.

    Raises InputError if these show no family, or contradict each other.
    """
    if family is not None:
        return family, "given"
    noted = re.match(r"(?i)([ds]it)(?![a-z])", str(args.get("model", "")))
    if noted:
        return noted[1].lower(), f"its metadata has model = {args['model']}"
    if "path_type" in args:
        return "sit", f"its metadata has path_type = {args['path_type']}"
    named = re.search(r"(?i)(?<![a-z])([ds]it)(?![a-z])", path.stem)
    aligned = any(name.startswith("projectors.") for name in shapes)
    if named and not (aligned and named[1].lower() == "dit"):
        return named[1].lower(), "its file name"
    if aligned and not named:
        return "sit", "it has projectors, as REPA's have"
    if linear_patch(shapes) and not named:
        return "sit", "its patch embedding is a linear layer, as Self-Flow's is"
    reason = "projectors, as REPA's SiT has, and DiT in its name" if named else "a file name without a family"
    raise InputError(
        f"{path}: got {reason}, expected DiT or SiT in the file name or its metadata; give the family, dit or sit",
        parameter="family",
    )


def facebook_config(
    path: Path, shapes: Shapes, heads: int | None = None, args: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The `config.json` for the file's shapes and this layout's formulas, and the assumptions made.

    `args` is the training script's metadata in the file. Raises InputError.
    """
    notes = args or {}
    try:
        patch = linear_patch(shapes)
        if patch:
            width, channels = shapes[_PATCHES][0], shapes[_PATCHES][1] // patch**2
        else:
            width, channels, patch, _ = shapes[_PATCHES]
        tokens, rows = shapes["pos_embed"][1], shapes[_TABLE][0]
        outputs = shapes["final_layer.linear.weight"][0] // patch**2
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: got tensor {error} missing or of another shape, expected the layout of facebookresearch/DiT; "
            "give a checkpoint of DiT or SiT, or a diffusers folder"
        ) from error
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise InputError(f"{path}: got {tokens} positions, expected a square number; choose another checkpoint")
    blocks = blocks_of(shapes)
    count, said = heads_of(path, width, heads or _normed_heads(shapes, width), notes)
    if blocks["qk_norm"] and shapes[_QUERY_NORM] != (width // count,):
        raise InputError(
            f"{path}: got normalised queries and keys (qk-norm) over {shapes[_QUERY_NORM][0]} channels, expected over "
            f"the {width // count} of a head; this variant is not supported, choose another checkpoint"
        )
    if linear_patch(shapes):
        said = [*said, f"patches of {patch}, as the published models with a linear patch embedding have"]
    null, guess = _null_class(path, rows, notes)
    config = {
        "num_attention_heads": count,
        "attention_head_dim": width // count,
        "in_channels": channels,
        "out_channels": outputs,
        **blocks,
        "sample_size": side * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": rows - null,
        "norm_eps": 1e-6,
        "frequency_shift": 0,
        "null_class": null,
    }
    return {**DiTConfig.from_json(config).to_json(), "tied": True}, [*said, *guess]


def linear_patch(shapes: Shapes) -> int:
    """Patch size if the patch embedding is a linear layer, 0 if it is a convolution."""
    return _LINEAR_PATCH if len(shapes.get(_PATCHES, ())) == 2 else 0


def blocks_of(shapes: Shapes) -> dict[str, Any]:
    """The configuration fields that decide which tensors the blocks have."""
    return {
        "num_layers": 1 + max((int(found[1]) for name in shapes if (found := _NUMBER.match(name))), default=0),
        "attention_bias": "blocks.0.attn.qkv.bias" in shapes,
        # With weights alone it would be another norm than timm's.
        "qk_norm": all(f"blocks.0.attn.{norm}.{kind}" in shapes for norm in ("q_norm", "k_norm") for kind in _PAIR),
    }


def _normed_heads(shapes: Shapes, width: int) -> int | None:
    """Attention heads by the channels of one, where the file tells and no published model of this width does."""
    channels = shapes.get(_QUERY_NORM, (0,))[0]
    return width // channels if channels and width % channels == 0 and width not in HEADS else None


def heads_of(path: Path, width: int, heads: int | None, notes: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Attention heads: given, from the metadata, or those of published models of this width; and the assumptions made.

    Raises InputError if the number is unknown or does not divide the width.
    """
    noted = notes.get("num_heads")
    count = heads or (noted if isinstance(noted, int) else None) or HEADS.get(width)
    if count is None or count < 1 or width % count:
        raise InputError(
            f"{path}: got the width {width}{f' and {heads} heads' if heads else ''}, expected "
            f"{', '.join(map(str, HEADS))} or the number of heads, which divides it; give that number",
            parameter="num_heads",
        )
    return count, [] if heads or isinstance(noted, int) else [f"{count} heads, as in published models of this width"]


def _null_class(path: Path, rows: int, notes: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether the last row of the label table is the class "no class", and the assumption made."""
    classes = notes.get("num_classes")
    if isinstance(classes, int) and not isinstance(classes, bool):
        if rows - classes not in (0, 1):
            raise InputError(
                f"{path}: got {rows} label rows and metadata of {classes} classes, expected {classes} rows or one "
                "more; choose another checkpoint"
            )
        return rows != classes, []
    null = rows != IMAGENET
    return null, [f'the last of {rows} labels is "no class"' if null else f'none of {rows} labels is "no class"']


def facebook_places(config: Mapping[str, Any], depth: int | None = None, patch: int = 0) -> dict[str, Stored]:
    """Name in `DiT` -> location in the file, for the first `depth` blocks (all and the output layer by default).

    `patch` is the patch size if the patch embedding is a linear layer, else 0.
    """
    places = {"conditioning.0.label.weight": Stored(_TABLE)}
    kinds = _PAIR
    block = _BLOCK | (_NORMS if config.get("qk_norm") else {})
    for ours, theirs in _OUTER.items():
        if depth is None or not ours.startswith("final"):
            places |= {f"{ours}.{kind}": Stored(f"{theirs}.{kind}") for kind in kinds}
    places["patch_embed.weight"] = Stored(_PATCHES, patch=patch)
    for index in range(config["num_layers"] if depth is None else min(depth, config["num_layers"])):
        for ours, theirs in block.items():
            places |= {f"blocks.{index}.{ours}.{kind}": Stored(f"blocks.{index}.{theirs}.{kind}") for kind in kinds}
        for part, ours in enumerate(("query", "key", "value")):
            for kind in kinds if config["attention_bias"] else kinds[:1]:
                places[f"blocks.{index}.{ours}.{kind}"] = Stored(f"blocks.{index}.attn.qkv.{kind}", part, 3)
    return places
