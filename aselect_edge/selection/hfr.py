"""The High-Frequency Ratio: the share of a feature map's spectral energy above a cutoff (arXiv 2603.25758).

The paper does not specify whether energy means amplitude or power, whether the transform is 1-D over the token
sequence or 2-D over the grid, and whether the mean counts. All are parameters; the defaults are power, 2-D, without
the mean, and the cutoff 0.15 of the authors' configuration, interpreted as cycles per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from aselect_runtime.errors import InputError

NYQUIST = 0.5**0.5
"""The highest radial frequency of a 2-D grid, in cycles per token."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Measure:
    """How a ratio is computed: over the grid or the token sequence, of power or amplitude, and the cutoff frequency."""

    dimensions: Literal[1, 2] = 2
    power: bool = True
    cutoff: float = 0.15
    """Cycles per token."""
    dc: bool = False
    """Whether the mean (frequency zero) counts in the total."""

    def __post_init__(self) -> None:
        if not 0 < self.cutoff < NYQUIST:
            raise InputError(
                f"got the cutoff {self.cutoff}, expected 0 to 0.7 cycles per token; change it", parameter="cutoff"
            )

    def __str__(self) -> str:
        mean = ", the mean counted" if self.dc else ""
        return f"{self.dimensions}-D {'power' if self.power else 'amplitude'} above {self.cutoff:g} cycles/token{mean}"


PAPER = Measure()


def high_frequency_ratio(features: Tensor, measure: Measure = PAPER) -> float:
    """HFR of features (N, rows, columns, D), 0 to 1; a constant map has 0.

    Energies are summed over images and channels first: the ratio of sums has less variance than the mean of ratios.
    """
    return float(ratio(energies(features, measure).sum(0)))


def energies(features: Tensor, measure: Measure = PAPER) -> Tensor:
    """(N, 2) float64: for each image of features (N, rows, columns, D), the energy above the cutoff and the total.

    Raises InputError for values that are not finite.
    """
    if not measure.power:
        return bands(spectrum(features, measure), measure)
    laid = _laid_out(features, measure)
    varying, mean = _centred(laid)
    tokens = laid.shape[1] * laid.shape[2]
    total = tokens * _summed(varying.square())
    constant = tokens**2 * _summed(mean.square())
    low = _low(varying, measure)
    high = (total - _summed(low.square())).clamp(min=0)
    both = torch.stack([high, total + constant if measure.dc else total], dim=-1)
    return _real(_finite(both), total + constant)


def shared_energies(first: Tensor, second: Tensor, measure: Measure = PAPER) -> Tensor:
    """(2,) float64: the power above the cutoff shared by two draws (N, rows, columns, D) of N images, and all power.

    Each draw is centred over the N images, position by position and channel by channel, which removes the part common
    to all images (the position embedding); both powers lose the same factor (N - 1)/N, which cancels in their ratio.
    The estimate of the shared power is unbiased and may therefore be negative. Raises InputError for a single image,
    and for values that are not finite.
    """
    if len(first) < 2:
        raise InputError("got one image in a batch, expected two or more to subtract their mean; add images")
    one, other = (
        _centred(draw - draw.mean(0, keepdim=True))[0]
        for draw in (_laid_out(first, measure), _laid_out(second, measure))
    )
    tokens = one.shape[1] * one.shape[2]
    low = _summed(_low(one, measure) * _low(other, measure))
    high = (tokens * _summed(one * other) - low).sum()
    power = tokens * (_summed(one.square()) + _summed(other.square())).sum() / 2
    return _finite(torch.stack([high, power]))


def spectrum(features: Tensor, measure: Measure = PAPER) -> Tensor:
    """Spectral energy of each image of features (N, rows, columns, D), summed over channels, float64.

    (N, rows, columns) for the 2-D transform, (N, 1, rows·columns) for the 1-D transform of the flattened tokens.
    Raises InputError for values that are not finite.
    """
    laid = _laid_out(features, measure)
    varying, mean = _centred(laid)
    transform = torch.fft.rfft2(varying, dim=(1, 2))
    energy = transform.real.square() + transform.imag.square()
    energy = (energy if measure.power else energy.sqrt()).sum(3).double()
    amplitude = mean.abs().double() * laid.shape[1] * laid.shape[2]
    energy[:, 0, 0] = (amplitude.square() if measure.power else amplitude).sum((1, 2, 3))
    return _finite(_whole(energy, laid.shape[2]))


def bands(energy: Tensor, measure: Measure = PAPER) -> Tensor:
    """(…, 2): the energy above the cutoff and the total energy of spectra (…, rows, columns)."""
    radius = _radius(energy.shape[-2], energy.shape[-1])
    counted = torch.ones_like(radius, dtype=torch.bool) if measure.dc else radius > 0
    total = (energy * counted.to(energy)).sum((-2, -1))
    high = (energy * (radius > measure.cutoff).to(energy)).sum((-2, -1))
    return _real(torch.stack([high, total], dim=-1), energy.sum((-2, -1)))


def check_grid(grid: tuple[int, int], measure: Measure) -> None:
    """Raise InputError for a grid with no frequency below the cutoff, or none above: all ratios would be equal."""
    rows, columns = (1, grid[0] * grid[1]) if measure.dimensions == 1 else grid
    if 1 / max(rows, columns) > measure.cutoff:
        raise InputError(
            f"got a token grid of {grid[0]}x{grid[1]}, expected a side of {math.ceil(1 / measure.cutoff)} tokens or "
            f"more to tell frequencies below the cutoff {measure.cutoff:g}; raise the input size or the cutoff",
            parameter=("imgsz", "cutoff"),
        )
    if not (_radius(rows, columns) > measure.cutoff).any():
        raise InputError(
            f"got the cutoff {measure.cutoff:g}, expected less than the highest frequency of a token grid of "
            f"{grid[0]}x{grid[1]} in {measure.dimensions}-D; lower it",
            parameter="cutoff",
        )


def ratio(energies: Tensor) -> Tensor:
    """High over total of (…, 2); 0 if there is no energy."""
    high, total = energies.unbind(-1)
    return (high / total).where(total > 0, torch.zeros_like(total))


def _radius(rows: int, columns: int) -> Tensor:
    """Cycles per token of every frequency of a grid, float64, rounded so that 3/15 is not above the cutoff 0.2."""
    one, other = (torch.fft.fftfreq(count, dtype=torch.float64) for count in (rows, columns))
    return torch.hypot(one[:, None], other[None, :]).round(decimals=9)


def _laid_out(features: Tensor, measure: Measure) -> Tensor:
    features = features.flatten(1, 2)[:, None] if measure.dimensions == 1 else features
    return features.float()


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features without each image's mean, and that mean (N, 1, 1, D).

    Further computation is in float32, so the mean is removed first: it is often a thousand times larger than the rest.
    """
    mean = features.mean((1, 2), keepdim=True)
    return features - mean, mean


def _summed(values: Tensor) -> Tensor:
    """Sum (N,) of all values of each image, float64 over channels."""
    return values.flatten(1, -2).sum(1).double().sum(-1)


def _low(features: Tensor, measure: Measure) -> Tensor:
    """The components (N, frequencies, D) at and below the cutoff, without the mean; their squares sum to its energy.

    There are few of them, and Parseval's theorem gives the total, so a product with these rows of the Fourier matrix
    replaces a complete transform and is an order of magnitude faster.
    """
    rows = _fourier_rows(features.shape[1], features.shape[2], measure.cutoff)
    return rows.to(features) @ features.flatten(1, 2)


@lru_cache(maxsize=8)
def _fourier_rows(rows: int, columns: int, cutoff: float) -> Tensor:
    """Rows (frequencies, tokens) of the real Fourier transform: one cosine and one sine for each pair ±f."""
    radius = _radius(rows, columns)
    y, x = (torch.arange(n, dtype=torch.float64) / n for n in (rows, columns))
    found = [torch.zeros(rows, columns, dtype=torch.float64)]
    for i, j in ((radius > 0) & (radius <= cutoff)).nonzero().tolist():
        mirror = (-i % rows, -j % columns)
        if (i, j) > mirror:
            continue
        angle = 2 * math.pi * (i * y[:, None] + j * x[None, :])
        # A frequency that equals its own negative (columns/2, for example) occurs once, and its sine is zero.
        found += [angle.cos()] if (i, j) == mirror else [2**0.5 * angle.cos(), 2**0.5 * angle.sin()]
    return torch.stack(found).flatten(1).float()


def _real(both: Tensor, everything: Tensor) -> Tensor:
    """`both` (…, 2), set to zero if the total is only the rounding error of a constant, relative to its energy."""
    return both.where((both[..., 1] > _ROUNDING * everything)[..., None], torch.zeros_like(both))


def _whole(half: Tensor, columns: int) -> Tensor:
    """The full spectrum (…, rows, columns) from a half spectrum: F(-i, -j) is the conjugate of F(i, j)."""
    mirrored = half[..., 1 : (columns + 1) // 2].flip(-1)
    mirrored = torch.cat([mirrored[..., :1, :], mirrored[..., 1:, :].flip(-2)], dim=-2)
    return torch.cat([half, mirrored], dim=-1)


def _finite(energy: Tensor) -> Tensor:
    if not torch.isfinite(energy).all():
        raise InputError("features hold NaN or infinite values, expected finite ones; use float32 or another backbone")
    return energy
