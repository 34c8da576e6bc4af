"""How diffusers writes a DiT: its `config.json`, and the names of its tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from aselect_edge.backbones.limits import Count, Depth, check_positions
from aselect_edge.backbones.square_config import SquareConfig
from aselect_runtime.errors import InputError


@dataclass(frozen=True)
class DiTConfig(SquareConfig):
    """The fields of diffusers' `config.json` that decide shapes and formulas."""

    num_attention_heads: Count = 16
    attention_head_dim: Count = 72
    in_channels: Count = 4
    num_layers: Depth = 28
    sample_size: Count = 32
    patch_size: Count = 2
    num_embeds_ada_norm: Count = 1000
    out_channels: Count | None = None
    attention_bias: bool = True
    norm_eps: float = 1e-5
    frequency_shift: Literal[0, 1] = 1
    """Subtracted from 128 in the sinusoid's divisor: 1 in diffusers, 0 in facebookresearch/DiT."""

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> DiTConfig:
        """Read diffusers' config; raises InputError for invalid values, and if the formulas differ from DiT's."""
        expected = {
            "norm_type": "ada_norm_zero",
            "activation_fn": "gelu-approximate",
            "norm_elementwise_affine": False,
            "dropout": 0.0,
        }
        for key, value in expected.items():
            if config.get(key, value) != value:
                raise InputError(
                    f"DiT config: got {key} = {config[key]!r}, expected {value!r}; this variant is not supported"
                )
        known = {field.name for field in fields(cls)}
        try:
            found = TypeAdapter(cls).validate_python({key: value for key, value in config.items() if key in known})
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise InputError(
                f"DiT config: got {fault['loc'][0]} = {fault['input']!r}, expected a valid value ({fault['msg']}); "
                "check config.json"
            ) from error
        check_positions("DiT", found.sample_size, found.patch_size, found.width)
        return found

    def to_json(self) -> dict[str, Any]:
        """The configuration that diffusers' `DiTTransformer2DModel.from_config` reads."""
        # Unknown to diffusers: written only if not the default.
        own = {"frequency_shift": 1, "null_class": True, "qk_norm": False, "latents_mean": None, "latents_std": None}
        values = {key: value for key, value in asdict(self).items() if key not in own or value != own[key]}
        return {"_class_name": "DiTTransformer2DModel", "norm_type": "ada_norm_zero", **values}


_BLOCK_KEYS = {
    "norm1.emb.timestep_embedder.linear_1": "conditioning.{}.time_in",
    "norm1.emb.timestep_embedder.linear_2": "conditioning.{}.time_out",
    "norm1.emb.class_embedder.embedding_table": "conditioning.{}.label",
    "norm1.linear": "blocks.{}.adaln",
    "attn1.to_q": "blocks.{}.query",
    "attn1.to_k": "blocks.{}.key",
    "attn1.to_v": "blocks.{}.value",
    "attn1.to_out.0": "blocks.{}.out",
    "ff.net.0.proj": "blocks.{}.mlp_in",
    "ff.net.2": "blocks.{}.mlp_out",
}
_NORM_KEYS = {"attn1.norm_q": "blocks.{}.query_norm", "attn1.norm_k": "blocks.{}.key_norm"}
_OUTER_KEYS = {"pos_embed.proj": "patch_embed", "proj_out_1": "final_adaln", "proj_out_2": "final"}


def diffusers_keys(config: DiTConfig, depth: int | None = None) -> dict[str, str]:
    """Name in this module -> name in diffusers' state dict, for the first `depth` blocks (all by default).

    A truncated model (`depth` given) has no output layer.
    """
    names = {ours: theirs for theirs, ours in _OUTER_KEYS.items() if depth is None or ours == "patch_embed"}
    inside = _BLOCK_KEYS | (_NORM_KEYS if config.qk_norm else {})
    for index in range(config.num_layers if depth is None else depth):
        names |= {ours.format(index): f"transformer_blocks.{index}.{theirs}" for theirs, ours in inside.items()}
    biasless = () if config.attention_bias else (".query", ".key", ".value")
    keys = {}
    for ours, theirs in names.items():
        keys[f"{ours}.weight"] = f"{theirs}.weight"
        if not ours.endswith((".label", *biasless)):
            keys[f"{ours}.bias"] = f"{theirs}.bias"
    return keys
