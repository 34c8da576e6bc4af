"""The fold: with noise level, noise and condition fixed, the conditioning path is constant and disappears. Exactly.

One file per family holds what is left of its blocks, `algebra` the identities that all of them use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aselect_edge.backbones.family import PIXELS, Affine, Backbone, Condition, Folded
from aselect_edge.records import Noise, Tap

__all__ = ["fixed_noise", "fold"]


def fixed_noise(shape: tuple[int, int, int], seed: int | None, draws: int = 1) -> Tensor:
    """The noise eps (draws, C, h, w) of a bundle, float32; zeros without a seed. Same on every platform."""
    if seed is None:
        return torch.zeros(draws, *shape)
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal((draws, *shape), np.float32))


def fold(
    model: Backbone,
    noise: Noise,
    taps: Sequence[Tap],
    size: tuple[int, int],
    noise_seed: int | None = 0,
    condition: Condition | None = None,
    affine: Affine = PIXELS,
    draws: int = 1,
) -> Folded:
    """Fold and truncate a backbone for values of `size` (h, w) that become x0 through `affine`.

    `condition` None is the model's own default. Features are the mean over `draws` fixed draws of the noise, which
    costs as many passes: they go through the blocks as a batch. Raises InputError for a tap that does not exist.
    """
    model.wanted(taps)
    model.grid(*size)
    eps = fixed_noise((model.channels, *size), noise_seed, draws)
    with torch.no_grad():
        folded = model.fold(noise, taps, size, eps, condition or model.condition(), affine)
    return folded.eval().requires_grad_(False)
