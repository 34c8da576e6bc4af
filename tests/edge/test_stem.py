"""The stem of a distilled encoder, and the models that it stands in for an autoencoder in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aselect_edge.backbones.family import Encoder
from aselect_edge.bundle import DistilledTapModel, TapModel
from aselect_edge.bundle.distilled import token_shape
from aselect_edge.fold import Stem, deployed_encoder, encoder_cost
from aselect_edge.heads import build_head
from aselect_runtime.records import HeadSpec, Noise, StemSpec, Tap
from tests.edge import test_encoders, test_rotary
from tests.edge.prompted_reference import STYLES, filled, patch, random_condition
from tests.edge.rotary_reference import KINDS
from tests.edge.test_fold import random_model

NOISE = Noise(alpha=0.8, sigma=0.6, model_timestep=100)
LINEAR = HeadSpec(kind="linear", channels=1)

vae = test_rotary.vae


def lived_in(stem: Stem) -> Stem:
    """As after training: norms with statistics of their own, tokens of another mean and scale."""
    torch.manual_seed(1)
    for module in stem.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    stem.centre(torch.randn(stem.spec.outputs), torch.rand(stem.spec.outputs) + 0.5)
    return stem.eval()


def relative(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


@settings(max_examples=25, deadline=None)
@given(
    stride=st.integers(1, 40),
    outputs=st.integers(1, 20),
    width=st.sampled_from([8, 24, 40]),
    blocks=st.integers(0, 2),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@torch.no_grad()
def test_every_stride_has_a_stem_and_its_deployed_form_is_the_same(
    stride: int, outputs: int, width: int, blocks: int, grid: tuple[int, int]
) -> None:
    """To the border, where a normalised frame is padded with zeros, which are no zeros of its pixels."""
    torch.manual_seed(0)
    stem = lived_in(Stem(StemSpec(stride=stride, outputs=outputs, width=width, blocks=blocks)))
    pixels = torch.rand(2, 3, grid[0] * stride, grid[1] * stride) * 255
    tokens = stem(pixels)
    assert tokens.shape == (2, outputs, *grid)
    deployed = stem.deployed()
    assert relative(deployed(pixels), tokens) < 1e-4  # float32 sums of up to 4,800 pixels in another order
    assert not [module for module in deployed.modules() if isinstance(module, nn.BatchNorm2d)]


def test_the_cost_is_counted_by_hand() -> None:
    """Stride 4, width 32, one block, 24 outputs, frames of 16x24: grids of 8x12 and 4x6."""
    stem = Stem(StemSpec(stride=4, outputs=24, width=32, blocks=1))
    found = encoder_cost(stem.deployed(), (16, 24))
    first, second = 3 * 16 * 9, 16 * 32 * 9
    block, last = 32 * 25 + 32 * 64 + 64 * 32, 32 * 24
    assert found.macs == 96 * first + 24 * (second + block + last)
    biases = 16 + 32 + (32 + 64 + 32) + 24
    assert found.parameters == first + second + block + last + biases


def test_the_cost_of_an_autoencoder_has_its_attention(tmp_path: Path) -> None:
    """Between the costs with and without the middle block's attention lie its projections and its two products."""
    from diffusers import AutoencoderKL

    from aselect_edge.backbones.encoders import load_encoder

    costs = []
    for attention in (True, False):
        folder = tmp_path / str(attention)
        model = AutoencoderKL(**test_encoders.KL, mid_block_add_attention=attention)
        test_encoders.random(model).save_pretrained(folder)
        costs.append(encoder_cost(deployed_encoder(load_encoder(str(folder))), (16, 24)).macs)
    tokens, width = 8 * 12, 16
    assert costs[0] - costs[1] == 4 * tokens * width**2 + 2 * tokens**2 * width


class Exact(nn.Module):
    """What a perfect stem would give, from the published formula x = alpha·x0 + sigma·eps and the patch embedding."""

    def __init__(self, encoder: Encoder, weight: Tensor, spec: StemSpec) -> None:
        super().__init__()
        self.encoder, self.weight, self.spec = encoder, weight, spec

    def forward(self, pixels: Tensor) -> Tensor:
        offset = self.encoder.affine.columns()[1].float()
        return F.conv2d(NOISE.alpha * (self.encoder.x0(pixels) - offset), self.weight, stride=self.weight.shape[2:])


def exact(full: TapModel, weight: Tensor) -> Stem:
    stride, outputs = token_shape(full)
    return cast(Stem, Exact(full.encoder, weight, StemSpec(stride=stride, outputs=outputs)))


@torch.no_grad()
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("latent", [False, True])
def test_an_exact_stem_leaves_dit_unchanged(latent: bool, draws: int, tmp_path: Path) -> None:
    encoder = None
    if latent:
        from diffusers import AutoencoderKL

        from aselect_edge.backbones.encoders import load_encoder

        test_encoders.random(AutoencoderKL(**test_encoders.KL, scaling_factor=0.5, shift_factor=0.3)).save_pretrained(
            tmp_path
        )
        encoder = load_encoder(str(tmp_path))
    model = random_model(in_channels=4 if latent else 3, patch_size=2)
    taps = [Tap.parse("0.hidden"), Tap.parse("1.mlp")]
    head = build_head(LINEAR, "seg", [32, 32], 4)
    full = TapModel(model, head, NOISE, taps, (16, 24), 3, encoder, noise_draws=draws).eval()
    stem = exact(full, model.patch_embed.weight)
    assert stem.spec.stride == (4 if latent else 2)
    pixels = torch.rand(2, 3, 16, 24) * 255
    for got, expected in zip(DistilledTapModel(full, stem).features(pixels), full.features(pixels), strict=True):
        assert relative(got, expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_an_exact_stem_leaves_rotary_families_unchanged_and_any_stem_is_deployed_exactly(
    tmp_path: Path, vae: str, name: str
) -> None:
    """JiT's patch embedding is two convolutions; LightningDiT's latents have an offset for each channel."""
    loaded = test_rotary.load(tmp_path, vae, name)
    model: Any = loaded.model
    size = tuple(side * loaded.encoder.stride for side in (6, 10))
    weight = model.patch_embed.weight
    if model.config.bottleneck is not None:
        weight = torch.einsum("oi,ichw->ochw", model.widen.weight[:, :, 0, 0], weight)
    taps = [Tap.parse("1.query")]
    head = build_head(LINEAR, "seg", [model.width], 4)
    full = TapModel(model, head, NOISE, taps, size, 0, loaded.encoder, loaded.condition).eval()  # type: ignore[arg-type]
    pixels = torch.rand(2, 3, *size) * 255
    (got,), (expected,) = DistilledTapModel(full, exact(full, weight)).features(pixels), full.features(pixels)
    assert relative(got, expected) < 1e-5
    stride, outputs = token_shape(full)
    any_stem = lived_in(Stem(StemSpec(stride=stride, outputs=outputs, width=16, blocks=1)))
    distilled = DistilledTapModel(full, any_stem).eval()
    assert relative(distilled.deployed()(pixels), distilled(pixels)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("style", ["prx", "sana"])
def test_an_exact_stem_leaves_prx_and_sana_unchanged(style: str) -> None:
    """PRX's patch embedding is a linear layer over patches; Sana names its convolution otherwise than PixArt."""
    model: Any = filled(*STYLES[style])
    weight = model.patch_weight() if style == "prx" else model.patch_embed.proj.weight
    size = (2 * patch(style), 3 * patch(style))
    head = build_head(LINEAR, "seg", [model.width], 4)
    taps = [Tap.parse("1.query")]
    full = TapModel(model, head, NOISE, taps, size, 0, condition=random_condition(2)).eval()
    pixels = torch.rand(2, 3, *size) * 255
    (got,), (expected,) = DistilledTapModel(full, exact(full, weight)).features(pixels), full.features(pixels)
    assert relative(got, expected) < 1e-5


def test_a_stem_of_another_stride_is_no_part_of_a_model() -> None:
    model = random_model(patch_size=2)
    full = TapModel(model, build_head(LINEAR, "seg", [32], 4), NOISE, [Tap.parse("0.query")], (16, 24), 0)
    with pytest.raises(ValueError, match="got a stem of stride 4 and 32 channels, expected 2 and 32"):
        DistilledTapModel(full, Stem(StemSpec(stride=4, outputs=32)))
