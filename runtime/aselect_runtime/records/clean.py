"""A backbone that was trained to give its features from the clean image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.records.base import Finite, Frozen
from aselect_runtime.records.noise import Noise

CleanLevels = Literal["selected", "sampled"]
"""The noise levels whose features are learned: the selection's alone, or all of the schedule."""


class Clean(Frozen):
    """How a clean backbone was trained, after CleanDIFT (arXiv 2412.03439)."""

    noise: Noise
    """The level whose features a head would otherwise read; the bundle's own `noise` has a sigma of 0."""
    levels: CleanLevels
    samples: Annotated[int, Field(ge=1)]
    """Images seen."""
    before: Finite
    """Mean cosine to the noisy features of val's images at the start, without training."""
    cosine: Finite
    """The same at the end."""
