"""Autoencoders in one file, with the names of latent-diffusion: from diffusers' names to these names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aselect_edge.backbones.store import Stored
from aselect_runtime.errors import InputError

IGNORED = (
    *(r"decoder\.", r"post_quant_conv\.", r"loss\.", r"discriminator\.", r"logvar$", r"model_ema\."),
    *(r"linear_proj\.", r"foundation_model\."),  # what VA-VAE was aligned with
)
_SCALES = {4: (0.18215, None), 16: (1.5305, 0.0609)}
"""Latent channels -> scaling_factor and shift_factor of the published autoencoders (Stable Diffusion's and SD3's)."""
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_config(
    path: Path, shapes: Mapping[str, tuple[int, ...]], scaled: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """diffusers' `config.json` for a file of these shapes, and the assumptions made; raises InputError.

    `scaled` says that the model defines the normalisation of the latents, so that the autoencoder's scale is not used.
    """
    levels = {int(found[1]) for name in shapes if (found := re.match(r"encoder\.down\.(\d{1,4})\.", name))}
    blocks = {int(found[1]) for name in shapes if (found := re.match(r"encoder\.down\.0\.block\.(\d{1,4})\.", name))}
    try:
        widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(1 + max(levels))]
        channels = shapes["encoder.conv_out.weight"][0] // 2
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: got no tensor {error}, expected an autoencoder (AutoencoderKL); give its folder or hub id",
            parameter="vae",
        ) from error
    if channels not in _SCALES and not scaled:
        raise InputError(
            f"{path}: got an autoencoder of {channels} channels, whose scaling factor is not in the file, expected "
            f"{' or '.join(map(str, _SCALES))}; give its diffusers folder or hub id",
            parameter="vae",
        )
    scale, shift = (1.0, None) if scaled else _SCALES[channels]
    attends = [f"encoder.down.{level}.attn.0.q.weight" in shapes for level in range(len(widths))]
    config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths,
        "down_block_types": ["AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attends],
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": len(blocks),
        "latent_channels": channels,
        "norm_num_groups": 32,
        "scaling_factor": scale,
        "shift_factor": shift,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
    }
    if scaled:
        return config, ["normalised as the model defines"]
    said = f"scaled by {scale}" + (f" after subtracting {shift}" if shift else "")
    return config, [f"{said}, as the published autoencoders with {channels} channels"]


def vae_place(name: str) -> Stored:
    """Location in a file of the encoder parameter that diffusers calls `name`."""
    name = name.replace("encoder.conv_norm_out.", "encoder.norm_out.")
    found = re.match(r"encoder\.down_blocks\.(\d{1,4})\.(resnets|downsamplers)\.(\d{1,4})\.(.+)$", name)
    if found and found[2] == "resnets":
        rest = found[4].replace("conv_shortcut.", "nin_shortcut.")
        return Stored(f"encoder.down.{found[1]}.block.{found[3]}.{rest}")
    if found:
        return Stored(f"encoder.down.{found[1]}.downsample.{found[4]}")
    found = re.match(r"encoder\.down_blocks\.(\d+)\.attentions\.(\d+)\.(.+)\.(weight|bias)$", name)
    if found:
        return _attention(f"encoder.down.{found[1]}.attn.{found[2]}", found[3], found[4])
    found = re.match(r"encoder\.mid_block\.resnets\.(\d)\.(.+)$", name)
    if found:
        return Stored(f"encoder.mid.block_{int(found[1]) + 1}.{found[2]}")
    found = re.match(r"encoder\.mid_block\.attentions\.0\.(.+)\.(weight|bias)$", name)
    if found:
        return _attention("encoder.mid.attn_1", found[1], found[2])
    return Stored(name)


def _attention(place: str, layer: str, kind: str) -> Stored:
    return Stored(f"{place}.{_ATTENTION[layer]}.{kind}", flat=layer != "group_norm")
