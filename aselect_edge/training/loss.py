"""The losses of segmentation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.family import Backbone
from aselect_edge.data import SegmentationData
from aselect_edge.denoise import Denoising, window_positions
from aselect_edge.perception import upsample
from aselect_edge.training.recipe import Recipe


def class_weights(data: SegmentationData) -> Tensor:
    """Weights (C,) of the cross-entropy: inverse square root of the pixel share, mean 1, at most 5."""
    counts = np.zeros(256, np.int64)
    for index in range(0, len(data), max(1, len(data) // 200)):
        counts += np.bincount(data.read(index)[1].ravel(), minlength=256)
    share = counts[: len(data.classes)] / max(1, counts[: len(data.classes)].sum())
    weights = 1 / np.sqrt(np.maximum(share, 1e-4))
    return torch.from_numpy(np.minimum(weights / weights.mean(), 5.0)).float()


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor, ignore: int, dice: float) -> Tensor:
    """Weighted cross-entropy plus `dice` times the soft Dice loss (Milletari et al., arXiv 1606.04797).

    logits (N, C, h, w) are brought bilinearly to the labels' (N, H, W), as the deployed graph does.
    """
    if (labels == ignore).all():
        return logits.sum() * 0  # a mean over nothing would be NaN, and the weights with it
    logits = upsample(logits, (labels.shape[1], labels.shape[2]))
    loss = F.cross_entropy(logits, labels, weights, ignore_index=ignore)
    if not dice:
        return loss
    known = (labels != ignore)[:, None]
    one_hot = F.one_hot(labels.where(known[:, 0], 0), logits.shape[1]).permute(0, 3, 1, 2) * known
    probability = logits.softmax(1) * known
    overlap = (probability * one_hot).sum((0, 2, 3))
    total = probability.sum((0, 2, 3)) + one_hot.sum((0, 2, 3))
    present = one_hot.sum((0, 2, 3)) > 0
    return loss + dice * (1 - (2 * overlap + 1) / (total + 1))[present].mean()


def denoising_loss(
    loss: Denoising, backbone: Backbone, pixels: Tensor, rng: np.random.Generator, recipe: Recipe
) -> Tensor:
    """The generative loss on small windows of pixels (N, 3, H, W), a fraction of the cost of whole frames."""
    assert isinstance(backbone, DiT)  # whoever asks for it has checked
    frame, count = (pixels.shape[2], pixels.shape[3]), recipe.denoising_windows
    positions, corners, side = window_positions(backbone, rng, recipe.window, frame, count)
    windows = [pixels[i % len(pixels), :, y : y + side, x : x + side] for i, (y, x) in enumerate(corners)]
    x0 = torch.stack(windows).flip(1) / 127.5 - 1
    return loss(backbone, loss.noised(x0), torch.full((count,), backbone.null_label), positions)
