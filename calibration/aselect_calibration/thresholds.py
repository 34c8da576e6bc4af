"""From a histogram to the largest magnitude that INT8 represents: one pure function per method.

A threshold t means the scale t / 127; larger values saturate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aselect_calibration.histogram import BINS, Histogram

Method = Literal["minmax", "percentile", "entropy", "mse"]

LEVELS = 127
"""Number of magnitudes of symmetric INT8 above zero."""

PERCENTILE = 99.99
_CANDIDATES = 100


def minmax(histogram: Histogram) -> float:
    """The largest magnitude seen: nothing saturates."""
    return histogram.largest


def percentile(histogram: Histogram, share: float = PERCENTILE) -> float:
    """The magnitude that `share` percent of the values do not exceed."""
    reached = np.cumsum(histogram.counts) >= histogram.counts.sum() * (share / 100)
    return min(float(histogram.edges[int(np.argmax(reached))]), histogram.largest)


def mse(histogram: Histogram) -> float:
    """The threshold with the least expected squared error of rounding and saturation together."""
    centres = histogram.edges - histogram.limit / BINS / 2
    candidates = histogram.largest * np.linspace(1 / _CANDIDATES, 1, _CANDIDATES)
    scales = candidates[:, None] / LEVELS
    rounded = np.clip(np.rint(centres / scales), 0, LEVELS) * scales
    errors = ((rounded - centres) ** 2 * histogram.counts).sum(axis=1)
    return float(candidates[int(np.argmin(errors))])


def entropy(histogram: Histogram) -> float:
    """The threshold at which the quantised distribution has the least Kullback-Leibler divergence from the true one.

    After S. Migacz, "8-bit Inference with TensorRT" (GTC 2017): saturated values join the last bin of the reference,
    and the mass of each level is spread over its non-empty bins.
    """
    levels = LEVELS + 1
    # Zeros, which a ReLU makes many of, are exact at any scale: the first bin gets the count of its neighbour.
    counts = histogram.counts.copy()
    counts[0] = counts[1]
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    if used <= levels or not counts.any():
        return histogram.largest
    tried = range(levels, used + 1, max(1, (used - levels) // _CANDIDATES))
    divergences = [_divergence(counts, end, levels) for end in tried]
    best = tried[int(np.argmin(divergences))]
    return min(float(histogram.edges[best - 1]), histogram.largest)


METHODS: Mapping[Method, Callable[[Histogram], float]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def threshold(histogram: Histogram, method: Method) -> float:
    """The threshold of a method; 1 for a tensor that is always zero, which any scale represents."""
    return METHODS[method](histogram) if histogram.largest > 0 else 1.0


def _divergence(counts: NDArray[np.int64], end: int, levels: int) -> float:
    inside = counts[:end].astype(np.float64)
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    starts = np.arange(levels) * end // levels
    mass = np.add.reduceat(inside, starts)
    occupied = np.add.reduceat((inside > 0).astype(np.float64), starts)
    share = np.divide(mass, occupied, out=np.zeros(levels), where=occupied > 0)
    quantised = np.repeat(share, np.diff(np.append(starts, end))) * (inside > 0)
    reference, quantised = reference / reference.sum(), quantised / max(quantised.sum(), 1.0)
    seen = reference > 0
    # A bin with only saturated values has no quantised mass: a small one keeps the divergence finite.
    return float((reference[seen] * np.log(reference[seen] / np.maximum(quantised[seen], 1e-12))).sum())
