"""Parts of the losses: weights for rare classes, and the overlap of a class with its prediction."""

from __future__ import annotations

import torch
from torch import Tensor


def rare_weights(counts: Tensor) -> Tensor:
    """Weights (C,) of the cross-entropy from the count of each class (C,).

    The inverse square root of a class's share, mean 1, at most 5; all 1 if all classes are equally frequent.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    weights = share.clamp(min=1e-4).rsqrt()
    return (weights / weights.mean()).clamp(max=5.0).float()


def dice_loss(probability: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Soft Dice loss (Milletari et al., arXiv 1606.04797), the mean over the classes that occur in the labels.

    probability (N, C, H, W), labels (N, H, W); pixels labelled `ignore` do not count.
    """
    known = (labels != ignore)[:, None]
    # Sums over a one-hot array: adding to a class's sum by index would be one after the other on a GPU, in any order.
    true = torch.zeros_like(probability).scatter_(1, labels[:, None].where(known, 0), known.to(probability.dtype))
    overlap, there = (probability * true).sum((0, 2, 3)), true.sum((0, 2, 3))
    total = (probability * known).sum((0, 2, 3)) + there
    return (1 - (2 * overlap + 1) / (total + 1))[there > 0].mean()


def lovasz_loss(probability: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Lovász-softmax (Berman et al., arXiv 1705.08790, algorithm 1), the mean over the classes that occur.

    The convex surrogate of 1 - IoU; same arguments as `dice_loss`.
    """
    known = labels != ignore
    p, y = probability.permute(0, 2, 3, 1)[known], labels[known]  # (M, C), (M,)
    losses = []
    for index in y.unique():
        true = (y == index).float()
        errors, order = (true - p[:, index]).abs().sort(descending=True)
        true = true[order]
        union = true.sum() + (1 - true).cumsum(0)
        jaccard = 1 - (true.sum() - true.cumsum(0)) / union  # 1 - IoU if this many of the worst pixels were wrong
        losses.append(errors @ jaccard.diff(prepend=jaccard.new_zeros(1)))
    return torch.stack(losses).mean()
