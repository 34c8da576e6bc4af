"""The High-Frequency Ratio on features whose spectrum is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aselect_edge.selection.hfr import (
    Measure,
    bands,
    check_grid,
    energies,
    high_frequency_ratio,
    ratio,
    shared_energies,
    spectrum,
)
from aselect_runtime.errors import InputError

GRID = st.tuples(st.integers(2, 14), st.integers(2, 14))
MODES = st.builds(Measure, dimensions=st.sampled_from([1, 2]), power=st.booleans())


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
    share = high_frequency_ratio(tone(grid, cycles), Measure(power=power))
    assert share == pytest.approx(float(radius > 0.15), abs=1e-5)


@pytest.mark.parametrize("cutoff", [0.05, 0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("side", [10, 15, 20, 30, 40])
def test_a_tone_at_the_cutoff_is_not_above_it_on_any_grid(side: int, cutoff: float) -> None:
    cycles = cutoff * side
    if cycles == int(cycles) and int(cycles):
        wave = tone((side, side), (0, int(cycles)))
        assert high_frequency_ratio(wave, Measure(cutoff=cutoff)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("cycles", "expected"), [(2, 0.0), (5, 1.0)])
def test_a_tone_over_the_flattened_tokens_is_read_in_one_dimension(cycles: int, expected: float) -> None:
    sequence = tone((1, 24), (0, cycles)).reshape(1, 4, 6, 3)
    assert high_frequency_ratio(sequence, Measure(dimensions=1)) == pytest.approx(expected, abs=1e-6)
    assert spectrum(sequence, Measure(dimensions=1)).shape == (1, 1, 24)
    assert spectrum(sequence).shape == (1, 4, 6)


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    dimensions=st.sampled_from([1, 2]),
    dc=st.booleans(),
    cutoff=st.floats(0.02, 0.69),
    seed=st.integers(0, 99),
)
def test_the_few_low_frequencies_say_what_the_whole_spectrum_says(
    grid: tuple[int, int], dimensions: Literal[1, 2], dc: bool, cutoff: float, seed: int
) -> None:
    features = torch.randn(2, *grid, 3, generator=torch.Generator().manual_seed(seed)) + 3
    measure = Measure(dimensions, cutoff=cutoff, dc=dc)
    expected, got = bands(spectrum(features, measure), measure), energies(features, measure)
    torch.testing.assert_close(got[:, 1], expected[:, 1], rtol=1e-4, atol=0)
    torch.testing.assert_close(ratio(got), ratio(expected), rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(grid=GRID, mode=MODES, exponent=st.integers(-6, 6), seed=st.integers(0, 99))
def test_scale_does_not_count(grid: tuple[int, int], mode: Measure, exponent: int, seed: int) -> None:
    features = torch.randn(2, *grid, 3, generator=torch.Generator().manual_seed(seed))
    expected = high_frequency_ratio(features, mode)
    got = high_frequency_ratio(features * 10.0**exponent, mode)
    assert 0 <= got <= 1
    assert got == pytest.approx(expected, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(grid=GRID, mode=MODES, mean=st.floats(-9, 9))
def test_the_mean_counts_only_where_it_is_asked_for(grid: tuple[int, int], mode: Measure, mean: float) -> None:
    features = torch.randn(1, *grid, 2, generator=torch.Generator().manual_seed(1))
    features -= features.mean(dim=(1, 2), keepdim=True)
    counted = replace(mode, dc=True)
    shifted = features + mean
    assert high_frequency_ratio(shifted, mode) == pytest.approx(high_frequency_ratio(features, mode), abs=1e-4)
    assert high_frequency_ratio(shifted, counted) <= high_frequency_ratio(shifted, mode) + 1e-9
    if abs(mean) > 1:
        assert high_frequency_ratio(shifted, counted) < high_frequency_ratio(features, counted)


@pytest.mark.parametrize("grid", [(16, 16), (9, 16), (18, 24)])
def test_white_noise_gives_the_share_of_the_band(grid: tuple[int, int]) -> None:
    features = torch.randn(8, *grid, 64, generator=torch.Generator().manual_seed(0))
    frequencies = [(i, j) for i in range(grid[0]) for j in range(grid[1]) if (i, j) != (0, 0)]
    fold = [math.hypot(min(i, grid[0] - i) / grid[0], min(j, grid[1] - j) / grid[1]) for i, j in frequencies]
    share = sum(radius > 0.15 for radius in fold) / len(fold)
    for power in (True, False):
        assert high_frequency_ratio(features, Measure(power=power)) == pytest.approx(share, abs=0.01)


def test_power_weighs_the_stronger_tone_more_than_amplitude() -> None:
    features = 3 * tone((16, 16), (0, 1)) + tone((16, 16), (0, 7))
    assert high_frequency_ratio(features) == pytest.approx(1 / 10, abs=1e-5)
    assert high_frequency_ratio(features, Measure(power=False)) == pytest.approx(1 / 4, abs=1e-4)


def test_the_spectrum_is_numpys() -> None:
    features = torch.randn(3, 5, 6, 4) + 100
    expected = np.abs(np.fft.fft2(features.double().numpy(), axes=(1, 2)))
    np.testing.assert_allclose(spectrum(features).numpy(), (expected**2).sum(3), rtol=1e-4)
    np.testing.assert_allclose(spectrum(features, Measure(power=False)).numpy(), expected.sum(3), rtol=1e-4)
    for rows, columns in ((1, 1), (1, 2), (2, 1), (4, 7)):
        some = torch.randn(2, rows, columns, 3)
        want = (np.abs(np.fft.fft2(some.double().numpy(), axes=(1, 2))) ** 2).sum(3)
        np.testing.assert_allclose(spectrum(some).numpy(), want, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(grid=st.tuples(st.integers(1, 9), st.integers(1, 9)), mode=MODES, value=st.floats(-1e4, 1e4, width=32))
def test_a_constant_has_no_high_frequencies(grid: tuple[int, int], mode: Measure, value: float) -> None:
    features = torch.full((2, *grid, 3), value)
    assert high_frequency_ratio(features, mode) == 0.0
    assert high_frequency_ratio(features, replace(mode, dc=True)) < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    features = torch.zeros(2, 4, 4, 2)
    features[0, 1, 2, 0] = value
    for look in (spectrum, energies, lambda f: shared_energies(f, f)):
        with pytest.raises(InputError, match="NaN or infinite"):
            look(features)


@pytest.mark.parametrize("cutoff", [0.0, -0.1, 0.8, float("nan")])
def test_a_cutoff_that_no_frequency_reaches_is_refused(cutoff: float) -> None:
    with pytest.raises(InputError, match=r"expected 0 to 0\.7"):
        Measure(cutoff=cutoff)


def test_a_grid_without_low_frequencies_is_refused() -> None:
    check_grid((4, 7), Measure())
    check_grid((4, 4), Measure(dimensions=1))
    with pytest.raises(InputError, match="a side of 7 tokens"):
        check_grid((6, 6), Measure())
    with pytest.raises(InputError, match=r"highest frequency of a token grid of 16x16 in 1-D; lower it"):
        check_grid((16, 16), Measure(dimensions=1, cutoff=0.6))


def signal_and_noise(images: int, grid: tuple[int, int], power: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A signal of low and high waves, random from image to image, and two draws of it under white noise of `power`."""
    rng = torch.Generator().manual_seed(seed)
    amplitudes = torch.randn(images, 2, 1, 1, 8, generator=rng)
    waves = torch.stack([tone(grid, (1, 0), 8)[0], tone(grid, (0, grid[1] // 2 - 1), 8)[0]])
    signal = (amplitudes * torch.tensor([1.0, 0.5]).view(1, 2, 1, 1, 1) * waves).sum(1)
    draws = signal + power**0.5 * torch.randn(2, *signal.shape, generator=rng)
    return signal, draws[0], draws[1]


def centred(features: Tensor) -> Tensor:
    return features - features.mean(0)


@pytest.mark.parametrize("power", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("cutoff", [0.07, 0.15, 0.4])
def test_two_draws_share_the_signal_alone(power: float, cutoff: float) -> None:
    measure = Measure(cutoff=cutoff)
    signal, first, second = signal_and_noise(400, (12, 16), power)
    shared, total = shared_energies(first, second, measure)
    high, own = energies(centred(signal), measure).sum(0)
    assert float(abs(shared - high) / own) < 0.05 * (1 + power)
    assert float((total - own) / total) == pytest.approx(power / (power + float(signal.square().mean())), abs=0.02)


@pytest.mark.parametrize("power", [0.0, 0.3, 3.0])
def test_the_plain_ratio_is_biased_as_derived_and_the_shared_one_is_not(power: float) -> None:
    signal, first, second = signal_and_noise(400, (12, 16), power)
    own = high_frequency_ratio(centred(signal))  # r_S
    white = float(ratio(bands(torch.ones(12, 16))))  # r_N
    noise_share = power / (power + float(signal.square().mean()))  # ν
    plain = high_frequency_ratio(centred(first))
    assert plain == pytest.approx((1 - noise_share) * own + noise_share * white, abs=0.02)
    assert float(ratio(shared_energies(first, second))) == pytest.approx((1 - noise_share) * own, abs=0.02)
    if power:
        assert plain > own + 0.1


def test_what_all_images_have_in_common_is_no_signal() -> None:
    signal, first, second = signal_and_noise(16, (12, 16), 0.3)
    position = 50 * torch.randn(1, 12, 16, 8, generator=torch.Generator().manual_seed(1))
    want, got = shared_energies(first, second), shared_energies(first + position, second + position)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="two or more"):
        shared_energies(signal[:1], signal[:1])


def test_batches_of_the_shared_power_add_up_without_bias() -> None:
    _, first, second = signal_and_noise(600, (12, 16), 0.3)
    pieces = torch.stack([shared_energies(a, b) for a, b in zip(first.split(4), second.split(4), strict=True)]).sum(0)
    assert float(ratio(pieces)) == pytest.approx(float(ratio(shared_energies(first, second))), abs=0.01)
    assert float(pieces[1] / shared_energies(first, second)[1]) == pytest.approx(3 / 4, abs=0.01)
