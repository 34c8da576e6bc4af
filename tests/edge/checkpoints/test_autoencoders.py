"""Autoencoders as they are held: their latents are diffusers', or the file is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from aselect_edge.backbones.encoders import load_encoder
from aselect_runtime.errors import InputError

State = dict[str, Tensor]


MODEL = {
    "model.diffusion_model.x.weight": torch.zeros(2, 2),
    "model_ema.diffusion_modelxweight": torch.zeros(2, 2),
    "text_encoders.clip_l.x.scale_weight": torch.ones(1),
}
"""The rest of an all-in-one file."""


def autoencoder(channels: int = 4) -> AutoencoderKL:
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(32, 64), latent_channels=channels, layers_per_block=2, **kinds).eval()


def original_name(name: str) -> str:
    """latent-diffusion's name of an encoder's parameter, from diffusers'."""
    rules = [
        (r"down_blocks\.(\d)\.resnets\.(\d)\.", r"down.\1.block.\2."),
        (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
        (r"mid_block\.resnets\.0\.", "mid.block_1."),
        (r"mid_block\.resnets\.1\.", "mid.block_2."),
        (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
        (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
        (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
        (r"conv_shortcut\.", "nin_shortcut."),
        (r"conv_norm_out\.", "norm_out."),
    ]
    for pattern, to in rules:
        name = re.sub(pattern, to, name)
    return name


def original(model: AutoencoderKL) -> State:
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")):
            pixelwise = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", original_name(name))
            state[original_name(name)] = value[:, :, None, None].clone() if pixelwise else value.clone()
    return {**state, "decoder.conv_in.weight": torch.zeros(4, 4), "post_quant_conv.weight": torch.zeros(4, 4)}


def latents(model: AutoencoderKL, pixels: Tensor, scale: float, shift: float = 0.0) -> Tensor:
    """The mean of the posterior of BGR pixels 0..255, scaled."""
    mean: Tensor = model.encode(pixels.flip(1) / 127.5 - 1).latent_dist.mean
    return scale * (mean - shift)


@torch.no_grad()
@pytest.mark.parametrize("how", [{}, {"variant": "fp16"}, {"safe_serialization": False}])
def test_a_folder_in_any_form_loads(tmp_path: Path, how: dict[str, object]) -> None:
    model = autoencoder()
    model.save_pretrained(tmp_path, **how)
    pixels = torch.rand(1, 3, 16, 16) * 255
    torch.testing.assert_close(load_encoder(str(tmp_path)).x0(pixels), latents(model, pixels, 0.18215))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("vae.safetensors", lambda s: s),
        ("vae-ft-mse.ckpt", lambda s: {"state_dict": {**s, "loss.logvar": torch.zeros(1)}}),
        ("sd.ckpt", lambda s: {"state_dict": {f"first_stage_model.{name}": value for name, value in s.items()}}),
        ("sd3.safetensors", lambda s: {**{f"first_stage_model.{name}": value for name, value in s.items()}, **MODEL}),
    ],
)
@pytest.mark.parametrize(("channels", "scale", "shift"), [(4, 0.18215, 0.0), (16, 1.5305, 0.0609)])
def test_a_single_file_loads(
    tmp_path: Path, name: str, wrap: Callable[[State], State], channels: int, scale: float, shift: float
) -> None:
    model = autoencoder(channels)
    state = wrap(original(model))
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    pixels = torch.rand(1, 3, 16, 16) * 255
    torch.testing.assert_close(
        load_encoder(str(tmp_path / name)).x0(pixels), latents(model, pixels, scale, shift), rtol=1e-4, atol=1e-4
    )


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    plain = original(autoencoder())
    for more, message in (
        ({"encoder.down.1.attn.0.q.weight": torch.zeros(4, 4)}, "encoder.down.1.attn.0.q.weight"),
        ({"encoder.conv_in.SCB": torch.zeros(4)}, "save it dequantised"),
    ):
        save_file({**plain, **more}, tmp_path / "vae.safetensors")
        with pytest.raises(InputError, match=message):
            load_encoder(str(tmp_path / "vae.safetensors"))
    save_file({"a.weight": torch.zeros(2, 2)}, tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match="expected an autoencoder"):
        load_encoder(str(tmp_path / "vae.safetensors"))


def test_a_folder_with_more_than_an_encoder_is_refused(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "encoder.prior.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(InputError, match=r"encoder\.prior\.weight"):
        load_encoder(str(tmp_path))
