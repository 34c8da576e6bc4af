"""Initial weights of a linear head: ridge regression from its normalised features to the classes, in closed form.

Gradient descent on a small budget is worse than this solution, which takes seconds. Training cannot get worse on val
from here, because the initial weights are validated too and the best weights are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.heads import Head
from aselect_edge.heads.linear import LinearClassifier, LinearSegmenter

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Ridge penalties relative to the mean of the Gram matrix's diagonal; val decides which one is used."""
SCALES = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0)
"""Factors that turn the solution, whose targets are 0 and 1, into logits; the loss decides which one is used."""
MOST_ROWS = 200_000

Batch = tuple[tuple[Tensor, ...], Tensor]
"""One map (N, rows, columns, D) per tap and labels (N,) or (N, H, W)."""


@dataclass(frozen=True)
class Moments:
    """Sums over rows x (M, D) and their classes that determine the solution, in float64."""

    gram: Tensor
    """(D + 1, D + 1), of the rows with a 1 appended."""
    target: Tensor
    """(D + 1, C), of the rows of each class."""

    def solve(self, damping: float) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) that minimise the squared error to one-hot classes.

        The penalty on each weight is `damping` times its feature's variance, summed over the rows, as in ridge
        regression on standardised features. The bias has no penalty.
        """
        count = self.gram[-1, -1]
        variance = (self.gram.diagonal() - self.gram[-1].square() / count).clamp(min=0)
        # The last term is far below any feature that varies, and keeps features that do not from a singular matrix.
        penalty = damping * (variance + 1e-6 * variance.mean()) + 1e-11 * self.gram.diagonal().mean()
        penalty[-1] = 0
        solution = torch.linalg.solve(self.gram + torch.diag(penalty), self.target).T.float()
        return solution[:, :-1].contiguous(), solution[:, -1].contiguous()


def is_linear(head: torch.nn.Module) -> bool:
    """Whether a head's output is linear in its normalised features."""
    return isinstance(head, Head) and isinstance(head.body, LinearSegmenter | LinearClassifier)


@torch.no_grad()
def moments(head: Head, batches: Iterable[Batch], classes: int, ignore: int, views: int) -> Moments:
    """The sums over `views` views; for segmentation over at most MOST_ROWS tokens, equally many of each view."""
    gram = target = torch.zeros(())
    for maps, labels in batches:
        normed = head.normed(maps)
        if labels.ndim == 1:
            rows = normed.mean(dim=(2, 3))
        else:
            rows, labels = _tokens(normed, labels, ignore, max(1, MOST_ROWS // views))
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1).double()
        one_hot = F.one_hot(labels.to(rows.device), classes).double()
        gram, target = gram.to(rows) + rows.T @ rows, target.to(rows) + rows.T @ one_hot
    return Moments(gram, target)


def _tokens(normed: Tensor, labels: Tensor, ignore: int, most: int) -> tuple[Tensor, Tensor]:
    """Labelled tokens (M, D) of maps (N, D, h, w) and the classes (M,) at their centres; at most `most` per map."""
    h, w = normed.shape[2:]
    down, across = (
        ((torch.arange(n) + 0.5) * size / n).long() for n, size in zip((h, w), labels.shape[1:], strict=True)
    )
    centres = labels[:, down][:, :, across].flatten(1)
    # At random, but the same: at even distances, a step that divides the columns would read only some of these.
    chosen = torch.randperm(h * w, generator=torch.Generator().manual_seed(0))[:most].sort().values
    rows = normed.flatten(2).transpose(1, 2)[:, chosen.to(normed.device)].flatten(0, 1)
    centres = centres[:, chosen.to(centres.device)].flatten()
    known = centres != ignore
    return rows[known.to(rows.device)], centres[known]


@torch.no_grad()
def set_linear(head: Head, weight: Tensor, bias: Tensor) -> None:
    """Set the weights (C, D) and bias (C,) of a linear head."""
    assert isinstance(head.body, LinearSegmenter | LinearClassifier)
    layer = head.body.classify
    layer.weight.copy_(weight.view_as(layer.weight))
    assert layer.bias is not None
    layer.bias.copy_(bias)
