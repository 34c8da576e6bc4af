"""A streaming histogram: the distribution of a tensor's magnitudes after any number of frames, in a few kilobytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 2048

_LEAST = 2.0**-100
"""The smallest limit; values far below it do not affect any product."""


@dataclass(frozen=True)
class Histogram:
    """Counts of |x| in BINS equal bins from 0 up to `limit`, a power of two, so that a larger limit merges whole bins.

    Only magnitudes are counted because the scales are symmetric.
    """

    limit: float = 0.0
    largest: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def added(self, values: NDArray[np.float32]) -> Histogram:
        """The histogram with these finite values added."""
        magnitudes = np.abs(values, dtype=np.float32).reshape(-1)
        largest = float(magnitudes.max(initial=0.0))
        grown = self._up_to(largest)
        if grown.limit == 0.0:  # zeros only, so far: bin 0 of any range
            counts = grown.counts.copy()
            counts[0] += magnitudes.size
            return Histogram(0.0, 0.0, counts)
        bins = (magnitudes * np.float32(BINS / grown.limit)).astype(np.int32)  # exact: a power of two
        counts = grown.counts + np.bincount(bins, minlength=BINS)
        return Histogram(grown.limit, max(self.largest, largest), counts)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Upper edge of every bin."""
        return np.arange(1, BINS + 1, dtype=np.float64) * (self.limit / BINS)

    def _up_to(self, largest: float) -> Histogram:
        """The same counts with a limit above `largest`; 0 stays the limit of zeros."""
        if largest < self.limit or largest == 0:
            return self
        limit = max(2.0 ** (math.floor(math.log2(largest)) + 1), _LEAST)
        merged = int(min(limit / self.limit, BINS)) if self.limit else BINS
        counts = np.bincount(np.arange(BINS) // merged, weights=self.counts, minlength=BINS).astype(np.int64)
        return Histogram(limit, self.largest, counts)
