"""The folded, truncated model equals the whole one, for random configurations."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge.backbones.dit import DiT, DiTConfig
from aselect_edge.fold import fixed_noise, fold
from aselect_edge.records import COMPONENTS, Noise, Tap


def random_dit(config: DiTConfig, seed: int = 0) -> DiT:
    torch.manual_seed(seed)
    model = DiT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flip(1) / 127.5 - 1


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(1, 3),
    layers=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    sigma=st.floats(0, 1),
    seed=st.none() | st.integers(0, 9),
    data=st.data(),
)
def test_folded_equals_unfolded(
    heads: int, layers: int, grid: tuple[int, int], sigma: float, seed: int | None, data: st.DataObject
) -> None:
    tap = st.builds(Tap, block=st.integers(0, layers - 1), component=st.sampled_from(COMPONENTS))
    taps = data.draw(st.lists(tap, min_size=1, max_size=3, unique=True))
    model = random_dit(DiTConfig(heads, 16, 3, num_layers=layers, patch_size=4, sample_size=16, num_embeds_ada_norm=3))
    noise = Noise(alpha=(1 - sigma**2) ** 0.5, sigma=sigma, model_timestep=sigma * 999)
    size = (grid[0] * 4, grid[1] * 4)
    pixels = torch.rand(2, 3, *size) * 255
    x = noise.alpha * normalise(pixels) + noise.sigma * fixed_noise((3, *size), seed)
    with torch.no_grad():
        expected = model.features(x, torch.full((2,), noise.model_timestep), {"label": torch.full((2,), 3)}, taps)
        got = fold(model, noise, taps, size, seed)(pixels)
    for tap_, value in zip(taps, got, strict=True):
        reference = expected[tap_]
        error = (value.flatten(1, 2) - reference).abs().max() / reference.abs().max()
        assert error < 1e-5, (tap_, error)


def test_a_query_tap_keeps_nothing_after_the_query() -> None:
    model = random_dit(DiTConfig(2, 16, 3, num_layers=3, patch_size=4, sample_size=16, num_embeds_ada_norm=3))
    folded = fold(model, Noise(alpha=1, sigma=0, model_timestep=0), [Tap(block=1, component="query")], (16, 16), 0)
    last = dict(folded.blocks[1].named_parameters())
    assert set(last) == {"project.weight", "project.bias"}
    assert last["project.weight"].shape == (32, 32)
    assert len(folded.blocks) == 2
