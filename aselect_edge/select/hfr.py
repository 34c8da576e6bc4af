"""The High-Frequency Ratio: the share of a feature map's spectral energy above a cutoff (arXiv 2603.25758).

The paper leaves open whether energy means amplitude or power, whether the transform is 1-D over the token
sequence or 2-D over the grid, and whether the mean counts. All three are parameters here; the defaults are
power, 2-D, without the mean, and the cutoff 0.15 of the authors' configuration, read as cycles per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aselect_edge.errors import InputError


def spectrum(features: Tensor, dimensions: int = 2, power: bool = True) -> Tensor:
    """Spectral energy of features (N, rows, columns, D), summed over images and channels, float64.

    (rows, columns) for the 2-D transform, (1, rows·columns) for the 1-D transform of the flattened tokens.
    """
    if not torch.isfinite(features).all():
        raise InputError("features hold NaN or infinite values, expected finite ones; use float32 or another backbone")
    if dimensions == 1:
        features = features.flatten(1, 2)[:, None]
    amplitude = torch.fft.fft2(features.double(), dim=(1, 2)).abs()
    energy: Tensor = (amplitude.square() if power else amplitude).sum(dim=(0, 3))
    return energy


def high_frequency_ratio(energy: Tensor, cutoff: float = 0.15, dc: bool = False) -> float:
    """Share of a spectrum (rows, columns) at radial frequencies above `cutoff`, in cycles per token; 0 to 1.

    Sum spectra over images first: the ratio of sums is steadier than the mean of ratios. With `dc` the mean
    (frequency zero) counts in the total. A spectrum without energy beyond rounding has the ratio 0.
    """
    rows, columns = energy.shape
    radius = torch.hypot(torch.fft.fftfreq(rows)[:, None], torch.fft.fftfreq(columns)[None, :])
    counted = energy if dc else energy.where(radius > 0, torch.zeros_like(energy))
    high = counted[radius > cutoff].sum()
    total = high + counted[radius <= cutoff].sum()
    # The transform of a constant leaves rounding at every frequency, which would pass for a spectrum.
    return float(high / total) if total > 1e-12 * energy.sum() else 0.0
