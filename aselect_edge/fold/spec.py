"""The input and the output of a fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from aselect_edge.backbones.family import PIXELS, Affine, Backbone, Condition
from aselect_runtime.errors import InputError
from aselect_runtime.records import Noise, Tap

LARGEST_NOISE = 1 << 30
"""Numbers of the fixed noise: 4 GiB."""


class Folded(nn.Module):
    """A folded, truncated backbone: values (N, C, h, w) -> one feature map (N, rows, columns, D) per tap.

    Noise, condition and timestep are constants inside; `blocks` holds the remaining part of each block.
    """

    taps: tuple[Tap, ...]
    grid: tuple[int, int]
    blocks: nn.ModuleList


@dataclass(frozen=True)
class FoldSpec:
    """Everything that is fixed: x = alpha · affine(value) + sigma · eps for values of `size`, read at the taps."""

    noise: Noise
    taps: tuple[Tap, ...]
    size: tuple[int, int]
    """Height and width of the values, (h, w)."""
    eps: Tensor
    """(K, C, h, w); features are the mean over the K draws, usually 1; each draw costs one pass."""
    condition: Condition
    affine: Affine = PIXELS

    @classmethod
    def of(
        cls,
        model: Backbone,
        noise: Noise,
        taps: Sequence[Tap],
        size: tuple[int, int],
        *,
        noise_seed: int | None = 0,
        draws: int = 1,
        condition: Condition | None = None,
        affine: Affine = PIXELS,
    ) -> FoldSpec:
        """A spec with the fixed noise of a seed; `condition` None is the model's default."""
        eps = fixed_noise((model.channels, *size), noise_seed, draws)
        return cls(noise, tuple(taps), size, eps, model.condition() if condition is None else condition, affine)

    @property
    def deepest(self) -> int:
        """Index of the deepest block that has a tap."""
        return max(tap.block for tap in self.taps)


def fixed_noise(shape: tuple[int, int, int], seed: int | None, draws: int = 1) -> Tensor:
    """The noise eps (draws, C, h, w) of a bundle, float32; zeros without a seed. The same on every platform."""
    if draws * math.prod(shape) > LARGEST_NOISE:
        raise InputError(
            f"got {draws} draws of noise of {'x'.join(map(str, shape))}, expected at most {LARGEST_NOISE} numbers; "
            "choose a smaller size or fewer draws",
            parameter="imgsz",
        )
    if seed is None:
        return torch.zeros(draws, *shape)
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal((draws, *shape), np.float32))
