"""The folded, truncated DiT and SiT equal the whole ones, for random configurations, and hold nothing that is dead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.backbones.family import PIXELS, Affine
from aselect_edge.backbones.sit import SiT
from aselect_edge.fold import FoldSpec, fixed_noise, fold
from aselect_runtime.errors import InputError
from aselect_runtime.records import COMPONENTS, Component, Noise, Tap

WIDTH, CLASSES = 32, 3


def random_model(kind: type[DiT] = DiT, tied: bool = False, **changes: Any) -> DiT:
    torch.manual_seed(0)
    options = {"num_layers": 3, "patch_size": 4, "sample_size": 16, "num_embeds_ada_norm": CLASSES, **changes}
    model = kind(DiTConfig(**{"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 3, **options}), tied)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model.eval().requires_grad_(False)


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from([DiT, SiT]),
    heads=st.integers(1, 3),
    layers=st.integers(1, 4),
    patch=st.sampled_from([1, 2, 4]),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    formula=st.sampled_from(
        [
            {},
            {"frequency_shift": 0, "norm_eps": 1e-6},
            {"attention_bias": False},
            {"frequency_shift": 0, "qk_norm": True},
        ]
    ),
    tied=st.booleans(),
    latent=st.none() | st.tuples(st.integers(1, 6), st.floats(0.1, 2), st.floats(-1, 1)),
    label=st.none() | st.integers(0, CLASSES - 1),
    sigma=st.floats(0, 1),
    seed=st.none() | st.integers(0, 9),
    draws=st.integers(1, 3),
    data=st.data(),
)
def test_folded_equals_unfolded(
    kind: type[DiT],
    heads: int,
    layers: int,
    patch: int,
    grid: tuple[int, int],
    formula: dict[str, Any],
    tied: bool,
    latent: tuple[int, float, float] | None,
    label: int | None,
    sigma: float,
    seed: int | None,
    draws: int,
    data: st.DataObject,
) -> None:
    tap = st.builds(Tap, block=st.integers(0, layers - 1), component=st.sampled_from(COMPONENTS))
    taps = data.draw(st.lists(tap, min_size=1, max_size=3, unique=True))
    channels = latent[0] if latent else 3
    model = random_model(
        kind, tied, num_attention_heads=heads, num_layers=layers, patch_size=patch, in_channels=channels, **formula
    )
    affine = Affine(latent[1], latent[2]) if latent else PIXELS
    noise = Noise(alpha=(1 - sigma**2) ** 0.5, sigma=sigma, model_timestep=sigma * 999)
    if kind is SiT:
        noise = Noise(alpha=1 - sigma, sigma=sigma, model_timestep=1 - sigma)
    size, condition = (grid[0] * patch, grid[1] * patch), model.condition(label)
    values = torch.randn(2, channels, *size) if latent else torch.rand(2, 3, *size) * 255
    x0 = latent[1] * values + latent[2] if latent else values.flip(1) / 127.5 - 1
    expected = {tap: torch.zeros(()) for tap in taps}
    with torch.no_grad():
        for eps in fixed_noise((channels, *size), seed, draws):
            x = noise.alpha * x0 + noise.sigma * eps
            seen = model.features(x, torch.full((2,), noise.model_timestep), _twice(condition), taps)
            expected = {tap: total + seen[tap] / draws for tap, total in expected.items()}
        folded = fold(
            model,
            FoldSpec.of(model, noise, taps, size, noise_seed=seed, condition=condition, affine=affine, draws=draws),
        )
        got = folded(values)
    assert len(folded.blocks) == 1 + max(tap.block for tap in taps)
    for tap_, value in zip(taps, got, strict=True):
        assert value.shape == (2, *grid, model.width)
        error = (value.flatten(1, 2) - expected[tap_]).abs().max() / expected[tap_].abs().max()
        assert error < 1e-5, (tap_, error)


def _twice(condition: Any) -> dict[str, Tensor]:
    return {name: value.expand(2, *value.shape[1:]) for name, value in condition.items()}


LAST: dict[Component, dict[str, tuple[int, ...]]] = {
    "hidden": {},
    "adaln": {"scale1": (WIDTH,), "shift1": (WIDTH,)},
    "query": {"project": (WIDTH, WIDTH)},
    "key": {"project": (WIDTH, WIDTH)},
    "value": {"project": (WIDTH, WIDTH)},
    "attn": {"project": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH)},
    "attn_gated": {"project": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH)},
    "mlp": {
        "project": (3 * WIDTH, WIDTH),
        "out": (WIDTH, WIDTH),
        "mlp_in": (4 * WIDTH, WIDTH),
        "mlp_out": (WIDTH, 4 * WIDTH),
    },
}
"""What is left of the tap's own block: matrices, and constants."""


@pytest.mark.parametrize("component", COMPONENTS)
def test_nothing_is_left_after_a_tap(component: Component) -> None:
    model = random_model()
    folded = fold(
        model,
        FoldSpec.of(model, Noise(alpha=1, sigma=0, model_timestep=0), [Tap(block=1, component=component)], (16, 16)),
    )
    assert len(folded.blocks) == 2
    state = {name: tuple(value.shape) for name, value in folded.blocks[1].state_dict().items()}
    expected = {}
    for name, shape in LAST[component].items():
        matrix = len(shape) == 2
        expected[f"{name}.weight" if matrix else name] = shape
        expected |= {f"{name}.bias": shape[:1]} if matrix else {}
    assert state == expected
    whole = {name: tuple(value.shape) for name, value in folded.blocks[0].state_dict().items()}
    assert {name for name in whole if name.endswith("weight")} == {f"{name}.weight" for name in LAST["mlp"]}
    assert not [name for name in folded.state_dict() if "adaln" in name or "conditioning" in name]


def test_a_mean_over_draws_differs_from_one_draw_and_costs_no_weights() -> None:
    model, noise, taps = random_model(), Noise(alpha=0.8, sigma=0.6, model_timestep=300), [Tap.parse("1.mlp")]
    one, three = (fold(model, FoldSpec.of(model, noise, taps, (16, 16), noise_seed=0, draws=draws)) for draws in (1, 3))
    pixels = torch.rand(1, 3, 16, 16) * 255
    assert (one(pixels)[0] - three(pixels)[0]).abs().max() > 1e-3
    assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in three.parameters())
    torch.testing.assert_close(fixed_noise((3, 4, 4), 5, 3)[:1], fixed_noise((3, 4, 4), 5))


def test_what_the_model_does_not_have_is_refused() -> None:
    model, noise = random_model(), Noise(alpha=1, sigma=0, model_timestep=0)
    with pytest.raises(InputError, match="got a tap at block 3, expected 0 to 2"):
        fold(model, FoldSpec.of(model, noise, [Tap.parse("3.query")], (16, 16)))
    with pytest.raises(InputError, match="got an input of 16x18, expected multiples of the patch size 4"):
        fold(model, FoldSpec.of(model, noise, [Tap.parse("0.query")], (16, 18)))
