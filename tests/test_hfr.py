"""The High-Frequency Ratio on features whose spectrum is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aselect_edge.errors import InputError
from aselect_edge.select.hfr import high_frequency_ratio, spectrum

GRID = st.tuples(st.integers(2, 14), st.integers(2, 14))
MODES = st.tuples(st.sampled_from([1, 2]), st.booleans())  # dimensions, power


def tone(grid: tuple[int, int], cycles: tuple[int, int], channels: int = 3) -> Tensor:
    """A wave of whole cycles over rows and columns; (1, rows, columns, channels), each with another phase."""
    y, x = (torch.arange(n, dtype=torch.float64) / n for n in grid)
    phase = torch.linspace(0, 1, channels)
    wave = torch.cos(2 * math.pi * (cycles[0] * y[:, None, None] + cycles[1] * x[None, :, None]) + phase)
    return wave[None].float()


@settings(max_examples=60, deadline=None)
@given(grid=GRID, data=st.data(), power=st.booleans())
def test_a_tone_lies_on_its_side_of_the_cutoff(grid: tuple[int, int], data: st.DataObject, power: bool) -> None:
    cycles = data.draw(st.integers(0, grid[0] // 2)), data.draw(st.integers(0, grid[1] // 2))
    if cycles == (0, 0):
        return
    radius = math.hypot(cycles[0] / grid[0], cycles[1] / grid[1])
    if abs(radius - 0.15) < 1e-6:
        return
    ratio = high_frequency_ratio(spectrum(tone(grid, cycles), power=power))
    assert ratio == pytest.approx(float(radius > 0.15), abs=1e-5)


@pytest.mark.parametrize(("cycles", "expected"), [(2, 0.0), (5, 1.0)])
def test_a_tone_over_the_flattened_tokens_is_read_in_one_dimension(cycles: int, expected: float) -> None:
    sequence = tone((1, 24), (0, cycles)).reshape(1, 4, 6, 3)
    assert high_frequency_ratio(spectrum(sequence, dimensions=1)) == pytest.approx(expected, abs=1e-6)
    assert spectrum(sequence, dimensions=1).shape == (1, 24)
    assert spectrum(sequence).shape == (4, 6)


@settings(max_examples=40, deadline=None)
@given(grid=GRID, mode=MODES, exponent=st.integers(-6, 6), seed=st.integers(0, 99))
def test_scale_does_not_count(grid: tuple[int, int], mode: tuple[int, bool], exponent: int, seed: int) -> None:
    features = torch.randn(2, *grid, 3, generator=torch.Generator().manual_seed(seed))
    expected = high_frequency_ratio(spectrum(features, *mode))
    got = high_frequency_ratio(spectrum(features * 10.0**exponent, *mode))
    assert 0 <= got <= 1
    assert got == pytest.approx(expected, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(grid=GRID, mode=MODES, mean=st.floats(-9, 9))
def test_the_mean_counts_only_where_it_is_asked_for(grid: tuple[int, int], mode: tuple[int, bool], mean: float) -> None:
    features = torch.randn(1, *grid, 2, generator=torch.Generator().manual_seed(1))
    features -= features.mean(dim=(1, 2), keepdim=True)
    plain, shifted = spectrum(features, *mode), spectrum(features + mean, *mode)
    assert high_frequency_ratio(shifted) == pytest.approx(high_frequency_ratio(plain), abs=1e-4)
    assert high_frequency_ratio(shifted, dc=True) <= high_frequency_ratio(shifted) + 1e-9
    if abs(mean) > 1:
        assert high_frequency_ratio(shifted, dc=True) < high_frequency_ratio(plain, dc=True)


@pytest.mark.parametrize("grid", [(16, 16), (9, 16), (18, 24)])
def test_white_noise_gives_the_share_of_the_band(grid: tuple[int, int]) -> None:
    features = torch.randn(8, *grid, 64, generator=torch.Generator().manual_seed(0))
    frequencies = [(i, j) for i in range(grid[0]) for j in range(grid[1]) if (i, j) != (0, 0)]
    fold = [math.hypot(min(i, grid[0] - i) / grid[0], min(j, grid[1] - j) / grid[1]) for i, j in frequencies]
    share = sum(radius > 0.15 for radius in fold) / len(fold)
    for power in (True, False):
        assert high_frequency_ratio(spectrum(features, power=power)) == pytest.approx(share, abs=0.01)


def test_power_weighs_the_stronger_tone_more_than_amplitude() -> None:
    features = 3 * tone((16, 16), (0, 1)) + tone((16, 16), (0, 7))
    assert high_frequency_ratio(spectrum(features)) == pytest.approx(1 / 10, abs=1e-5)
    assert high_frequency_ratio(spectrum(features, power=False)) == pytest.approx(1 / 4, abs=1e-4)


def test_spectra_add_up_over_images() -> None:
    features = torch.randn(4, 5, 6, 7)
    torch.testing.assert_close(spectrum(features), spectrum(features[:1]) + spectrum(features[1:]))


@settings(max_examples=30, deadline=None)
@given(grid=st.tuples(st.integers(1, 9), st.integers(1, 9)), mode=MODES, value=st.floats(-1e4, 1e4, width=32))
def test_a_constant_has_no_high_frequencies(grid: tuple[int, int], mode: tuple[int, bool], value: float) -> None:
    energy = spectrum(torch.full((2, *grid, 3), value), *mode)
    assert high_frequency_ratio(energy) == 0.0
    assert high_frequency_ratio(energy, dc=True) < 1e-12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    features = torch.zeros(1, 4, 4, 2)
    features[0, 1, 2, 0] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        spectrum(features)
