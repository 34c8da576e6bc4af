"""Autoencoders as they are held: their latents are diffusers', or the file is refused by name."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.encoders import load_encoder
from aselect_edge.backbones.family import Affine
from aselect_edge.fold import FoldSpec, fold
from aselect_runtime.errors import InputError
from aselect_runtime.records import Tap
from tests.edge.checkpoints import references as ref

State = dict[str, Tensor]


MODEL = {
    "model.diffusion_model.x.weight": torch.zeros(2, 2),
    "model_ema.diffusion_modelxweight": torch.zeros(2, 2),
    "text_encoders.clip_l.x.scale_weight": torch.ones(1),
}
"""The rest of an all-in-one file."""


def autoencoder(channels: int = 4, last: str = "DownEncoderBlock2D") -> AutoencoderKL:
    torch.manual_seed(0)
    kinds: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D", last),
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    return AutoencoderKL(block_out_channels=(32, 64), latent_channels=channels, layers_per_block=2, **kinds).eval()


def original_name(name: str) -> str:
    """latent-diffusion's name of an encoder's parameter, from diffusers'."""
    rules = [
        (r"down_blocks\.(\d)\.resnets\.(\d)\.", r"down.\1.block.\2."),
        (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
        (r"mid_block\.resnets\.0\.", "mid.block_1."),
        (r"mid_block\.resnets\.1\.", "mid.block_2."),
        (r"mid_block\.attentions\.0\.", "mid.attn_1."),
        (r"down_blocks\.(\d)\.attentions\.(\d)\.", r"down.\1.attn.\2."),
        (r"to_out\.0\.", "proj_out."),
        (r"to_([qkv])\.", r"\1."),
        (r"group_norm\.", "norm."),
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
            pixelwise = re.search(r"attn(_1|\.\d)\.(q|k|v|proj_out)\.weight", original_name(name))
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


VA_VAE: dict[str, Any] = {"last": "AttnDownEncoderBlock2D", "channels": 32}
"""The kind that LightningDiT and REPA-E take: attention at the last resolution, a scale that the file does not say."""


@torch.no_grad()
def test_va_vaes_file_loads_for_a_model_that_normalises_latents(tmp_path: Path) -> None:
    model = autoencoder(**VA_VAE)
    beside = {
        "linear_proj.weight": torch.zeros(2, 2),
        "foundation_model.x": torch.zeros(2),
        "loss.logvar": torch.zeros(1),
    }
    torch.save({"state_dict": {**original(model), **beside}}, tmp_path / "vavae.pt")
    with pytest.raises(InputError, match="32 channels, whose scaling factor is not in the file"):
        load_encoder(str(tmp_path / "vavae.pt"))
    mean, std = torch.linspace(-2, 2, 32), torch.linspace(0.5, 4, 32)
    encoder = load_encoder(str(tmp_path / "vavae.pt"), affine=Affine.normalising(mean.tolist(), std.tolist()))
    pixels = torch.rand(1, 3, 16, 24) * 255
    expected = (latents(model, pixels, 1.0) - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(encoder.x0(pixels), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, VA_VAE], ids=["f8d4", "f16d32"])
def test_repa_es_autoencoder_and_statistics_are_in_its_file(tmp_path: Path, options: dict[str, Any]) -> None:
    """x0 = (z - running mean) / sqrt(running variance + 1e-4), and nothing of 0.18215."""
    vae = autoencoder(**options)
    channels = vae.config.latent_channels
    state = ref.dit_state(learned_sigma=False)
    generator = torch.Generator().manual_seed(1)
    state["x_embedder.proj.weight"] = torch.randn(ref.WIDTH, channels, 2, 2, generator=generator)
    state["final_layer.linear.weight"] = torch.randn(4 * channels, ref.WIDTH, generator=generator)
    state["final_layer.linear.bias"] = torch.zeros(4 * channels)
    mean, variance = (
        torch.linspace(-1, 1, channels),
        torch.cat([torch.tensor([1e-5]), torch.linspace(0.2, 9, channels - 1)]),
    )
    state |= {"bn.running_mean": mean, "bn.running_var": variance, "bn.num_batches_tracked": torch.tensor(5)}
    torch.save(
        {"ema": state, "model": state, "vae": original(vae), "args": Namespace(path_type="linear")}, tmp_path / "x.pt"
    )
    loaded = load_backbone(str(tmp_path / "x.pt"), heads=ref.HEADS)
    assert (loaded.model.family, loaded.vae) == ("sit", None)
    pixels = torch.rand(1, 3, 16, 24) * 255
    moments, channel = latents(vae, pixels, 1.0), (-1, 1, 1)
    expected = (moments - mean.reshape(channel)) / (variance.reshape(channel) + 1e-4).sqrt()
    torch.testing.assert_close(loaded.x0(pixels), expected, rtol=1e-4, atol=1e-4)
    affine = Affine.normalising(mean.tolist(), (variance + 1e-4).sqrt().tolist())
    tap, noise = Tap.parse("1.mlp"), loaded.schedule.levels([300])[0]
    size = loaded.encoder.size(16, 24)
    spec = FoldSpec.of(loaded.model, noise, [tap], size, condition=loaded.condition, affine=loaded.encoder.affine)
    x = noise.alpha * expected + noise.sigma * spec.eps
    seen = loaded.model.features(x, torch.tensor([noise.model_timestep]), loaded.condition, [tap])[tap]
    got = fold(loaded.model, spec)(loaded.encoder(pixels))[0].flatten(1, 2)
    assert (got - seen).abs().max() < 1e-5 * seen.abs().max() + 1e-5
    assert loaded.encoder.affine.columns()[0].flatten().tolist() == pytest.approx(
        affine.columns()[0].flatten().tolist()
    )


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    plain = original(autoencoder())
    for more, message in (
        ({"encoder.down.1.temporal.weight": torch.zeros(4, 4)}, r"encoder\.down\.1\.temporal\.weight"),
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
