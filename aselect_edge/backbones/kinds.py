"""Recognise the model in a single file by its tensor names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from aselect_runtime.errors import InputError

Kind = Literal["dit", "pixart", "sd3", "rotary", "diffusers"]
"""The supported layouts: the original files of DiT and SiT, PixArt, SD3, LightningDiT and JiT (`rotary`), and
diffusers' (with its config.json)."""
SUPPORTED = "DiT, SiT, PixArt, SD3, SD3.5, LightningDiT or JiT"

_READ: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("sd3", (r"joint_blocks\.0\.x_block\.",)),
    ("rotary", (r"x_embedder\.(proj1|proj)\.weight", r"feat_rope\.freqs_cos|blocks\.0\.(mlp\.w12|norm1)\.weight")),
    ("rotary", (r"x_embedder\.proj1\.weight",)),
    ("pixart", (r"blocks\.0\.cross_attn\.kv_linear\.", r"t_block\.1\.weight")),
)
_SANA = "Sana in its authors' layout"
"""Its files have PixArt's names too."""
_OTHERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a LoRA adapter", (r".*(lora_A|lora_B|lora_down|lora_up|lokr_w1|hada_w1_a)\b", r"(?!.*base_layer)")),
    ("HunyuanVideo", (r".*double_blocks\.0\.", r".*txt_in\.individual_token_refiner\.")),
    ("Flux", (r".*double_blocks\.0\.img_attn\.", r".*single_blocks\.0\.")),
    ("Flux", (r"transformer_blocks\.0\.ff_context\.", r"single_transformer_blocks\.0\.")),
    ("AuraFlow", (r".*double_layers\.0\.|joint_transformer_blocks\.0\.",)),
    ("HunyuanDiT", (r".*blocks\.0\.default_modulation\.",)),
    ("HunyuanDiT", (r"blocks\.0\.attn2\.", r"blocks\.0\.skip_linear|blocks\.\d+\.norm3|time_extra_emb")),
    ("Qwen-Image", (r".*transformer_blocks\.0\.img_mod\.", r".*txt_in\.")),
    ("Z-Image", (r".*(all_x_embedder|all_final_layer)\.|.*x_pad_token",)),
    ("Lumina", (r".*layers\.0\.attention\.|.*context_refiner\.0\.", r".*(cap_embedder|time_caption_embed)")),
    ("Wan", (r".*blocks\.0\.self_attn\.|.*blocks\.0\.attn1\.", r".*(time_projection|condition_embedder\.time_proj)")),
    ("CogVideoX", (r".*(patch_embed\.text_proj|mixins\.patch_embed|mixins\.final_layer)",)),
    (_SANA, (r".*inverted_conv\.",)),
    ("PRX in its authors' layout", (r".*blocks\.0\.img_qkv_proj\.",)),
    ("Stable Audio", (r".*conditioner\.conditioners\.",)),
    ("SDXL (a U-Net)", (r".*input_blocks\.0\.", r".*(label_emb|conditioner\.embedders\.1)\.")),
    ("Stable Diffusion (a U-Net)", (r".*input_blocks\.0\.|down_blocks\.0\.",)),
    ("MDT or MaskDiT", (r".*(sideblocks|de_blocks|decoder_layers)\.|mask_token",)),
    ("an autoencoder", (r"(first_stage_model\.)?encoder\.(down|conv_in)", r"(first_stage_model\.)?decoder\.")),
    ("a text encoder", (r"(text_model|encoder\.block|shared)\.",)),
    ("a vision model", (r"(blocks\.0\.norm1\.weight|embeddings\.|conv1\.weight|layer1\.)",)),
)
"""Models that are recognised but not supported; a model matches if each of its patterns matches some name."""


def kind_of_file(path: Path, names: Iterable[str]) -> Kind:
    """The layout of a single file with these tensor names; raises InputError that names an unsupported model."""
    known = list(names)
    other = next((name for name, patterns in _OTHERS if _has(known, patterns)), None)
    for kind, patterns in _READ:
        if _has(known, patterns) and other != _SANA:
            return kind
    looks_like_dit = _has(known, (r"blocks\.\d+\.adaLN_modulation\.1\.", r"(t|x|y)_embedder\.", r"blocks\.\d+\.attn\."))
    if looks_like_dit and other != "HunyuanDiT":
        return "dit"
    if other is None and _has(known, (r"transformer_blocks\.0\.|blocks\.0\.attention\.img_qkv_proj\.",)):
        return "diffusers"
    if other is not None:
        raise InputError(f"{path}: got {other}, expected {SUPPORTED}; it is not supported, choose one of these")
    shown = ", ".join(sorted(known)[:3]) or "no tensors"
    raise InputError(f"{path}: got tensors of an unknown model ({shown}), expected {SUPPORTED}; choose one of these")


def _has(names: list[str], patterns: tuple[str, ...]) -> bool:
    return all(any(re.match(pattern, name) for name in names) for pattern in patterns)
