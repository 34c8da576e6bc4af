"""The denoising loss: used to pretrain the backbone, and in fine-tuning in addition to the task's loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.noise import cumulative_alphas
from aselect_runtime.errors import InputError


class Noised(NamedTuple):
    """Images at random noise levels."""

    x: Tensor
    """(N, C, H, W)"""
    timestep: Tensor
    """(N,)"""
    target: Tensor
    """The target of the model, (N, C, H, W)."""
    signal: Tensor
    """The image's share of the power, alpha squared, (N,)."""


class Denoising:
    """Images at random timesteps of a schedule, and the model's target for them.

    The target follows `prediction_type`: `epsilon` (Ho et al., arXiv 2006.11239) or `v_prediction`,
    v = alpha·eps - sigma·x0 (Salimans and Ho, arXiv 2202.00512).
    """

    def __init__(self, schedule: dict[str, Any], device: torch.device) -> None:
        self.kind = schedule.get("prediction_type", "epsilon")
        if self.kind not in ("epsilon", "v_prediction"):
            raise InputError(
                f"got prediction_type {self.kind!r}, expected epsilon or v_prediction; correct the scheduler"
            )
        self.cumulative = torch.from_numpy(cumulative_alphas(schedule)).float().to(device)

    def noised(self, x0: Tensor, timesteps: Tensor | None = None) -> Noised:
        """x0 (N, C, H, W) in [-1, 1] at a random noise level each, of `timesteps` (M,) or of all, uniformly."""
        t = torch.randint(0, len(self.cumulative if timesteps is None else timesteps), (len(x0),), device=x0.device)
        t = t if timesteps is None else timesteps[t]
        alpha = self.cumulative[t].sqrt()[:, None, None, None]
        sigma = (1 - self.cumulative[t]).sqrt()[:, None, None, None]
        eps = torch.randn_like(x0)
        target = eps if self.kind == "epsilon" else alpha * eps - sigma * x0
        return Noised(alpha * x0 + sigma * eps, t, target, self.cumulative[t])


def prediction_error(model: DiT, noised: Noised, label: Tensor, positions: Tensor | None = None) -> Tensor:
    """Mean squared error of the model's output, a scalar; label (N,), positions as in `DiT.forward`."""
    prediction = model(noised.x, noised.timestep, label, positions).float()
    # A model with learned variance has twice the channels; its loss is on the first half.
    return F.mse_loss(prediction[:, : noised.x.shape[1]], noised.target)


def window_positions(
    model: DiT, rng: np.random.Generator, window: int, frame: tuple[int, int], count: int
) -> tuple[Tensor, NDArray[np.int64], int]:
    """Random square windows inside a frame (height, width), of whole patches and at most `window` pixels a side.

    Returns their position embeddings (count, T, D), their corners (count, 2) in pixels, (top, left), and their side.
    """
    rows, columns = model.grid(*frame)
    patch = model.config.patch_size
    side = min(max(1, window // patch), rows, columns)
    table = model.positions((rows, columns)).unflatten(0, (rows, columns))
    corners = np.stack([rng.integers(0, rows - side + 1, count), rng.integers(0, columns - side + 1, count)], axis=1)
    windows = [table[top : top + side, left : left + side].flatten(0, 1) for top, left in corners]
    return torch.stack(windows), corners * patch, side * patch
