"""Encoders against diffusers' own classes, and as they are deployed: pixels straight into the first convolution."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aselect_edge.backbones import DiT, DiTConfig
from aselect_edge.backbones.encoders import load_encoder
from aselect_edge.backbones.family import Encoder, Pixels
from aselect_edge.bundle.model import TapModel
from aselect_edge.fold import deployed_encoder
from aselect_edge.heads import build_head
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.records import HeadSpec, Noise, Tap
from tests.edge.taesd import load_taesd

KL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
TINY: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 1, 1),
    "num_decoder_blocks": (1, 1, 1),
}
DC: dict[str, Any] = {
    "latent_channels": 4,
    "attention_head_dim": 4,
    "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 8, 16, 16),
    "decoder_block_out_channels": (8, 8, 16, 16),
    "encoder_layers_per_block": (1, 2, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "encoder_qkv_multiscales": ((), (), (), (5,)),
    "decoder_qkv_multiscales": ((), (), (5,), (5,)),
    "scaling_factor": 0.41407,
}
DC_STYLES: dict[str, dict[str, Any]] = {
    "sana": {"downsample_block_type": "conv"},
    "pixel-unshuffle": {"encoder_layers_per_block": (0, 2, 1, 1)},
    "no-last-shortcut": {"encoder_out_shortcut": False, "encoder_qkv_multiscales": ((), (), (3, 5), (5,))},
}


def random(model: nn.Module) -> Any:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        # Away from the initial values: norms and biases must count, or a wrong fold could pass.
        nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
    return model.eval().requires_grad_(False)


def normalised(pixels: Tensor) -> Tensor:
    return pixels.flip(1) / 127.5 - 1


def relative(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> tuple[AutoencoderKL, Path]:
    """Stable Diffusion 1's kind, with quant_conv."""
    model = random(AutoencoderKL(**KL, scaling_factor=0.18215))
    folder = tmp_path_factory.mktemp("kl")
    model.save_pretrained(folder / "vae")
    return model, folder


@pytest.mark.parametrize(
    "options",
    [
        {"scaling_factor": 0.18215},
        {"scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False},
        {"layers_per_block": 2, "mid_block_add_attention": False},
        {"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")},
    ],
    ids=["sd1", "sd3", "no-attention", "va-vae"],
)
@pytest.mark.parametrize("size", [(16, 16), (6, 20)])
def test_kl_is_the_scaled_and_shifted_mean(tmp_path: Path, options: dict[str, Any], size: tuple[int, int]) -> None:
    theirs = random(AutoencoderKL(**{**KL, **options}))
    theirs.save_pretrained(tmp_path)
    ours = load_encoder(str(tmp_path))
    pixels = torch.rand(2, 3, *size) * 255
    mean = theirs.encode(normalised(pixels)).latent_dist.mean
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor or 0.0
    with torch.no_grad():
        torch.testing.assert_close(ours.x0(pixels), (mean - shift) * scale, rtol=1e-5, atol=1e-5)
        deployed = deployed_encoder(ours)
        assert relative(deployed(pixels), ours(pixels)) < 1e-5
    assert not [m for m in deployed.modules() if type(m).__name__ == "Attention"], "attention is written out everywhere"
    assert ours.size(*size) == (size[0] // 2, size[1] // 2)
    assert not any(name.startswith("decoder") for name in ours.state_dict())


@pytest.mark.parametrize("options", DC_STYLES.values(), ids=DC_STYLES)
@pytest.mark.parametrize("size", [(32, 32), (8, 24), (64, 40)])
def test_dc_is_scaled_and_deployed_exactly(tmp_path: Path, options: dict[str, Any], size: tuple[int, int]) -> None:
    """At 8x24 there are fewer pixels than a head has channels, where diffusers' attention is quadratic."""
    theirs = random(AutoencoderDC(**{**DC, **options}))
    theirs.save_pretrained(tmp_path / "vae")
    ours = load_encoder(str(tmp_path))
    pixels = torch.rand(2, 3, *size) * 255
    with torch.no_grad():
        expected = theirs.encode(normalised(pixels)).latent
        assert relative(ours.x0(pixels), expected * 0.41407) < 1e-5
        assert relative(deployed_encoder(ours)(pixels), expected) < 1e-5
    assert (ours.stride, ours.channels) == (8, 4)
    assert not any(name.startswith("decoder") for name in ours.state_dict())


@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_latents_of_a_mean_and_a_deviation_of_each_channel(tmp_path: Path, kind: str) -> None:
    theirs = random(AutoencoderKL(**KL, scaling_factor=0.5) if kind == "kl" else AutoencoderDC(**DC))
    theirs.save_pretrained(tmp_path)
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.5, 2.0, 1.0, 4.0]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "latents_mean": mean, "latents_std": std}))
    pixels = torch.rand(1, 3, 16, 16) * 255
    with torch.no_grad():
        latents = theirs.encode(normalised(pixels))
        latents = latents.latent_dist.mean if kind == "kl" else latents.latent
        # As StableDiffusionXLImg2ImgPipeline: (z - mean) · scaling_factor / std.
        expected = (latents - torch.tensor(mean)[:, None, None]) * config["scaling_factor"]
        expected = expected / torch.tensor(std)[:, None, None]
        assert relative(load_encoder(str(tmp_path)).x0(pixels), expected) < 1e-5


def test_tiny_has_its_own_scale(tmp_path: Path) -> None:
    theirs = random(AutoencoderTiny(**TINY))
    theirs.save_pretrained(tmp_path / "vae")
    ours = load_encoder(str(tmp_path))
    pixels = torch.rand(2, 3, 8, 20) * 255
    with torch.no_grad():
        expected = theirs.encode(normalised(pixels)).latents
        torch.testing.assert_close(ours.x0(pixels), expected, rtol=1e-5, atol=1e-5)
        assert relative(deployed_encoder(ours)(pixels), expected) < 1e-5
    assert (ours.stride, ours.channels) == (4, 4)


def test_the_shift_reaches_the_border_as_the_original_pads(kl: tuple[AutoencoderKL, Path]) -> None:
    """A fold of the shift into the bias alone, with zero padding, would differ at the border only."""
    ours = load_encoder(str(kl[1]))
    deployed: Any = deployed_encoder(ours)
    pixels = torch.rand(1, 3, 8, 8) * 255
    with torch.no_grad():
        first = kl[0].encoder.conv_in(normalised(pixels))
        torch.testing.assert_close(deployed.first(pixels), first, rtol=1e-5, atol=1e-5)
        deployed.first.pad = 1e-9
        wrong = (deployed.first(pixels) - first).abs()
    assert wrong[..., 1:-1, 1:-1].max() < 1e-4
    assert wrong.max() > 0.1


def test_names_of_old_autoencoders_are_understood(kl: tuple[AutoencoderKL, Path], tmp_path: Path) -> None:
    source = kl[1] / "vae"
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(source / "diffusion_pytorch_model.safetensors")
    for new, name in old.items():
        state = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): value for key, value in state.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in state
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    pixels = torch.rand(1, 3, 8, 8) * 255
    with torch.no_grad():
        torch.testing.assert_close(load_encoder(str(tmp_path))(pixels), load_encoder(str(kl[1]))(pixels))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 20), width=st.integers(1, 20))
def test_sizes_that_the_stride_does_not_divide_are_refused(
    kl: tuple[AutoencoderKL, Path], height: int, width: int
) -> None:
    encoder = load_encoder(str(kl[1]))
    if height % 2 or width % 2:
        with pytest.raises(InputError, match=f"got frames of {height}x{width}, expected multiples of .* 2"):
            encoder.size(height, width)
    else:
        assert encoder.size(height, width) == (height // 2, width // 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "VQModel"}, "'VQModel', expected one of AutoencoderKL, AutoencoderDC, AutoencoderTiny"),
        ({"in_channels": 4}, "got 4 input channels"),
        ({"latents_mean": [0.0] * 4}, "latents_std = None, expected 4 numbers"),
        ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 4}, "expected 4 numbers, one for each channel"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0, 1.0, 1.0, 0.0]}, "expected positive latents_std"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1}, "shift_factor = 0.1 beside"),
        ({"block_out_channels": 3}, "config not understood"),
        ({"latent_channels": 5}, r"got shape .* expected"),
    ],
)
def test_other_autoencoders_are_refused(
    kl: tuple[AutoencoderKL, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    for path in (kl[1] / "vae").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=message):
        load_encoder(str(tmp_path))


def test_truncated_weights_are_refused(kl: tuple[AutoencoderKL, Path], tmp_path: Path) -> None:
    for path in (kl[1] / "vae").iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content if path.suffix == ".json" else content[:-40])
    with pytest.raises(IntegrityError, match="expected safetensors"):
        load_encoder(str(tmp_path))


def test_pixels_need_no_encoder() -> None:
    encoder = Pixels()
    pixels = torch.rand(1, 3, 4, 6) * 255
    torch.testing.assert_close(encoder.x0(pixels), normalised(pixels))
    assert encoder.size(5, 7) == (5, 7)
    assert deployed_encoder(encoder) is encoder


@pytest.mark.parametrize(("name", "stride"), [("taef2_encoder", 8), ("taesana_encoder", 32)])
def test_real_weights_survive_deployment(name: str, stride: int) -> None:
    folder = os.environ.get("ASELECT_DATA")
    path = Path(folder or "none") / "taesd" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip("needs ASELECT_DATA with taesd/")
    encoder: Encoder = load_taesd(path)
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8) * 255
    pixels = nn.functional.interpolate(coarse, size=(96, 128), mode="bicubic").clamp(0, 255)
    with torch.no_grad():
        expected = encoder(pixels)
        assert relative(deployed_encoder(encoder)(pixels), expected) < 1e-5
    assert encoder.stride == stride
    assert expected.shape == (1, 32, 96 // stride, 128 // stride)
    assert 0.3 < expected.std() < 3  # as latents are: a wrong activation or order of branches leaves this range


@torch.no_grad()
def test_real_weights_survive_the_fold_of_a_whole_model() -> None:
    folder = os.environ.get("ASELECT_DATA")
    path = Path(folder or "none") / "taesd" / "taef2_encoder.safetensors"
    if not path.is_file():
        pytest.skip("needs ASELECT_DATA with taesd/")
    config = DiTConfig(2, 16, in_channels=32, num_layers=2, patch_size=1, sample_size=8, num_embeds_ada_norm=3)
    backbone = random(DiT(config))
    noise, taps = Noise(alpha=0.9, sigma=0.436, model_timestep=190), [Tap.parse("1.query")]
    head = build_head(HeadSpec(kind="linear", channels=1), "seg", [32], 4)
    model = TapModel(backbone, head, noise, taps, (48, 64), 0, load_taesd(path)).eval()
    pixels = nn.functional.interpolate(torch.rand(1, 3, 6, 8) * 255, size=(48, 64), mode="bicubic").clamp(0, 255)
    assert relative(model.deployed()(pixels), model(pixels)) < 1e-4


def test_an_unknown_taesd_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected taef2_encoder or taesana_encoder"):
        load_taesd(tmp_path / "taesd_encoder.safetensors")
