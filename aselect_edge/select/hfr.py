"""The High-Frequency Ratio: the share of a feature map's spectral energy above a cutoff (arXiv 2603.25758).

The paper leaves open whether energy means amplitude or power, whether the transform is 1-D over the token
sequence or 2-D over the grid, and whether the mean counts. All are parameters; the defaults are power, 2-D, without
the mean, and the cutoff 0.15 of the authors' configuration, read as cycles per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from aselect_edge.errors import InputError

NYQUIST = 0.5**0.5
"""The highest radial frequency of a 2-D grid, in cycles per token."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Measure:
    """How a ratio is taken: over the grid or the token sequence, of power or amplitude, above which frequency."""

    dimensions: Literal[1, 2] = 2
    power: bool = True
    cutoff: float = 0.15
    """Cycles per token."""
    dc: bool = False
    """Whether the mean (frequency zero) counts in the total."""

    def __post_init__(self) -> None:
        if not 0 < self.cutoff < NYQUIST:
            raise InputError(f"got the cutoff {self.cutoff}, expected 0 to 0.7 cycles per token; change --cutoff")

    def __str__(self) -> str:
        mean = ", the mean counted" if self.dc else ""
        return f"{self.dimensions}-D {'power' if self.power else 'amplitude'} above {self.cutoff:g} cycles/token{mean}"


PAPER = Measure()


def high_frequency_ratio(features: Tensor, measure: Measure = PAPER) -> float:
    """HFR of features (N, rows, columns, D), 0 to 1; a constant map has 0.

    Energies are summed over images and channels first: the ratio of sums is steadier than the mean of ratios.
    """
    return float(ratio(bands(spectrum(features, measure), measure).sum(0)))


def spectrum(features: Tensor, measure: Measure = PAPER) -> Tensor:
    """Spectral energy of each image of features (N, rows, columns, D), summed over channels, float64.

    (N, rows, columns) for the 2-D transform, (N, 1, rows·columns) for the 1-D transform of the flattened tokens.
    Raises InputError for values that are not finite.
    """
    transform, mean = _transform(_laid_out(features, measure))
    energy = transform.real.square() + transform.imag.square()
    energy = (energy if measure.power else energy.sqrt()).sum(3).double()
    amplitude = mean.abs().double() * features.shape[1] * features.shape[2]
    energy[:, 0, 0] = (amplitude.square() if measure.power else amplitude).sum((1, 2, 3))
    return _finite(_whole(energy, _laid_out(features, measure).shape[2]))


def cross_spectra(first: Tensor, second: Tensor, measure: Measure = PAPER) -> Tensor:
    """(2, rows, columns) float64: the power that two draws (N, rows, columns, D) of N images share, and their power.

    Each draw is centred over the N images, position by position and channel by channel, so what is common to all
    images (the position embedding) drops out; both spectra lose the same factor (N - 1)/N by it, and their ratio
    none. Single frequencies of the shared power may be negative: it is unbiased, not positive.
    Raises InputError for one image alone, and for values that are not finite.
    """
    if len(first) < 2:
        raise InputError("got one image in a batch, expected two or more to tell it from their mean; add images")
    one, other = (
        torch.fft.rfft2(draw - draw.mean(0, keepdim=True), dim=(1, 2))
        for draw in (_laid_out(first, measure), _laid_out(second, measure))
    )
    shared = one.real * other.real + one.imag * other.imag
    power = (one.real.square() + one.imag.square() + other.real.square() + other.imag.square()) / 2
    both = torch.stack([shared.sum((0, 3)), power.sum((0, 3))]).double()
    return _finite(_whole(both, _laid_out(first, measure).shape[2]))


def bands(energy: Tensor, measure: Measure = PAPER) -> Tensor:
    """(…, 2): the energy above the cutoff, and all that counts, of spectra (…, rows, columns)."""
    high, counted = _masks(energy.shape[-2], energy.shape[-1], measure)
    total = (energy * counted.to(energy)).sum((-2, -1))
    # The transform of a constant leaves rounding at every frequency, which would pass for a spectrum.
    total = total.where(total > _ROUNDING * energy.sum((-2, -1)), torch.zeros_like(total))
    return torch.stack([(energy * high.to(energy)).sum((-2, -1)).where(total > 0, total), total], dim=-1)


def shared_bands(first: Tensor, second: Tensor, measure: Measure = PAPER) -> Tensor:
    """(2,): the power above the cutoff that two draws share, and all the power that counts; see `cross_spectra`."""
    shared, power = cross_spectra(first, second, measure)
    high, counted = _masks(shared.shape[0], shared.shape[1], measure)
    return torch.stack([(shared * high.to(shared)).sum(), (power * counted.to(power)).sum()])


def check_grid(grid: tuple[int, int], measure: Measure) -> None:
    """Raise InputError for a grid with no frequency below the cutoff, or none above: all ratios would be alike."""
    rows, columns = (1, grid[0] * grid[1]) if measure.dimensions == 1 else grid
    if 1 / max(rows, columns) > measure.cutoff:
        raise InputError(
            f"got a token grid of {grid[0]}x{grid[1]}, expected a side of {math.ceil(1 / measure.cutoff)} tokens or "
            f"more to tell frequencies below the cutoff {measure.cutoff:g}; raise --imgsz or --cutoff"
        )
    high, _ = _masks(rows, columns, measure)
    if not high.any():
        raise InputError(
            f"got the cutoff {measure.cutoff:g}, expected less than the highest frequency of a token grid of "
            f"{grid[0]}x{grid[1]} in {measure.dimensions}-D; lower --cutoff"
        )


def ratio(energies: Tensor) -> Tensor:
    """High over total of (…, 2); 0 where there is no energy."""
    high, total = energies.unbind(-1)
    return (high / total).where(total > 0, torch.zeros_like(total))


def _masks(rows: int, columns: int, measure: Measure) -> tuple[Tensor, Tensor]:
    radius = torch.hypot(torch.fft.fftfreq(rows)[:, None], torch.fft.fftfreq(columns)[None, :])
    counted = torch.ones_like(radius, dtype=torch.bool) if measure.dc else radius > 0
    return radius > measure.cutoff, counted


def _laid_out(features: Tensor, measure: Measure) -> Tensor:
    features = features.flatten(1, 2)[:, None] if measure.dimensions == 1 else features
    return features.float()


def _transform(features: Tensor) -> tuple[Tensor, Tensor]:
    """Half spectrum (N, rows, columns/2 + 1, D) without the mean, and the mean (N, 1, 1, D).

    In float32, which is why the mean goes first: it is often a thousand times larger than what varies.
    """
    mean = features.mean((1, 2), keepdim=True)
    return torch.fft.rfft2(features - mean, dim=(1, 2)), mean


def _whole(half: Tensor, columns: int) -> Tensor:
    """The full spectrum (…, rows, columns) of a half one: F(-i, -j) is the conjugate of F(i, j)."""
    mirrored = half[..., 1 : (columns + 1) // 2].flip(-1)
    mirrored = torch.cat([mirrored[..., :1, :], mirrored[..., 1:, :].flip(-2)], dim=-2)
    return torch.cat([half, mirrored], dim=-1)


def _finite(energy: Tensor) -> Tensor:
    if not torch.isfinite(energy).all():
        raise InputError("features hold NaN or infinite values, expected finite ones; use float32 or another backbone")
    return energy
