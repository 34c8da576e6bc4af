"""Checkpoints of facebookresearch/DiT and of SiT: one file, timm's names, q, k and v in one tensor.

Where the formulas differ from diffusers', the config holds it: the sinusoid's divisor is 128, both LayerNorms of a
block have an eps of 1e-6, all blocks share one conditioning. The position table in the file must equal the one that
`sincos_positions` computes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aselect_edge.backbones.dit import DiTConfig
from aselect_edge.backbones.store import Stored
from aselect_runtime.errors import InputError

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
_NUMBER = re.compile(r"blocks\.(\d{1,4})\.")
IGNORED = (r"final_layer\.", r"projectors\.", r"ap_head\.")
"""Tensors that no tap depends on: the output layer, and the training heads of REPA, iREPA and SRA."""
_TABLE = "y_embedder.embedding_table.weight"


def family_of_file(path: Path, family: str | None, names: Iterable[str], args: Mapping[str, Any]) -> tuple[str, str]:
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
    aligned = any(name.startswith("projectors.") for name in names)
    if named and not (aligned and named[1].lower() == "dit"):
        return named[1].lower(), "its file name"
    if aligned and not named:
        return "sit", "it has projectors, as REPA's have"
    reason = "projectors, as REPA's SiT has, and DiT in its name" if named else "a file name without a family"
    raise InputError(
        f"{path}: got {reason}, expected DiT or SiT in the file name or its metadata; give the family, dit or sit",
        parameter="family",
    )


def facebook_config(
    path: Path, shapes: Mapping[str, tuple[int, ...]], heads: int | None = None, args: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The `config.json` for the file's shapes and this layout's formulas, and the assumptions made.

    `args` is the training script's metadata in the file. Raises InputError.
    """
    notes = args or {}
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
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
    count, said = heads_of(path, width, heads, notes)
    null, guess = _null_class(path, rows, notes)
    config = {
        "num_attention_heads": count,
        "attention_head_dim": width // count,
        "in_channels": channels,
        "out_channels": outputs,
        **blocks_of(shapes),
        "sample_size": side * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": rows - null,
        "norm_eps": 1e-6,
        "frequency_shift": 0,
        "null_class": null,
    }
    return {**DiTConfig.from_json(config).to_json(), "tied": True}, [*said, *guess]


def blocks_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The configuration fields that decide which tensors the blocks have."""
    return {
        "num_layers": 1 + max((int(found[1]) for name in shapes if (found := _NUMBER.match(name))), default=0),
        "attention_bias": "blocks.0.attn.qkv.bias" in shapes,
    }


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


def facebook_places(config: Mapping[str, Any], depth: int | None = None) -> dict[str, Stored]:
    """Name in `DiT` -> location in the file, for the first `depth` blocks (all and the output layer by default)."""
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
