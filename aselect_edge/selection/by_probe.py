"""Selection by labels: a closed-form ridge regression of every candidate, scored on images that it has not seen."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.evaluation.metrics import Confusion
from aselect_edge.selection.choice import Choice, Settings, best_of
from aselect_edge.selection.evidence import NO_LABEL, Evidence, Labelled
from aselect_edge.selection.scan import Scan, batches
from aselect_runtime.records import Noise, Tap

Parts = list[tuple[range, Tensor]]
"""The indices of each batch and its x0."""


def by_probe(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """One-against-all ridge regressions on a few hundred labelled images pick sigma, block and component jointly.

    Segmentation: from tokens to the class at their centre, fitted on train, scored by mIoU over val's tokens. Levels
    are processed one by one, so that memory holds one (D+1)x(D+1) Gram matrix per tap, and x0 of the images.

    Classification: from the mean over tokens to the class. Each image of train and val is left out in turn, and the
    score is the mean share of wrong classes that rank below the right one. Of a few images per class it says more than
    the accuracy on val alone. Memory holds the means of one level.
    """
    train, val = evidence.labels()
    parts = inputs(scan, train), inputs(scan, val)
    images = f"{len(train.images)} train and {len(val.images)} val images"
    if val.labels.ndim > 1:
        score, note = _on_val, "mIoU over val's tokens of a ridge probe"
    else:
        score, note = (
            _left_out,
            "wrong classes below the right one, as a share, by a ridge probe without the image",
        )
    values = scan.by_level(partial(score, scan, train, val, parts, settings.ridge), "probe")
    return best_of(scan.scores(values), f"{note}; {images}.", {"ridge": settings.ridge})


def _on_val(
    scan: Scan, train: Labelled, val: Labelled, parts: tuple[Parts, Parts], ridge: float, noise: Noise
) -> list[float]:
    weights = _fit(scan, train, parts[0], noise, ridge)
    confusions = {tap: Confusion(val.classes, NO_LABEL) for tap in scan.taps}
    for part, x0 in parts[1]:
        for tap, feature in scan.walk(x0, noise):
            x, y = examples(feature, val.tokens(scan.grid)[part.start : part.stop])
            confusions[tap].update((_with_bias(x) @ weights[tap]).argmax(1).cpu().numpy(), y.numpy())
    return [confusions[tap].miou() for tap in scan.taps]


def _left_out(
    scan: Scan, train: Labelled, val: Labelled, parts: tuple[Parts, Parts], ridge: float, noise: Noise
) -> list[float]:
    labels = train.labels.long(), val.labels.long()
    means = torch.cat([rows(scan, part, known, noise) for part, known in zip(parts, labels, strict=True)], dim=1)
    classes = torch.cat(labels)
    one_hot = F.one_hot(classes, train.classes).double()
    return [ranking(left_out(x.cpu(), one_hot, ridge), classes) for x in means]


def left_out(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """For each row of x (M, D), what a ridge regression from all other rows to theirs of y (M, C) says; float64.

    In closed form (Allen, Technometrics 16, 1974): the residual of a row that is left out is its residual in the fit of
    all rows over 1 - h, with h its entry in the diagonal of the hat matrix. The penalty stays that of all rows.
    """
    x = _with_bias(x.double())
    solution = torch.linalg.solve(_damped(x.T @ x, ridge), x.T)
    h = (x * solution.T).sum(1, keepdim=True)
    return y - (y - x @ (solution @ y)) / (1 - h)


def ranking(scores: Tensor, classes: Tensor) -> float:
    """The mean share of wrong classes with a lower score (M, C) than the right class (M,); equal ones count half."""
    right = scores.gather(1, classes[:, None])
    lower, equal = (scores < right).sum(1), (scores == right).sum(1) - 1
    return float(((lower + equal / 2) / (scores.shape[1] - 1)).mean())


def rows(scan: Scan, parts: Parts, labels: Tensor, noise: Noise) -> Tensor:
    """The rows that `examples` gives of all batches, (taps, M, D) in float16, on the scan's device."""
    each = [scan.readings(x0, noise, partial(_half, labels[part.start : part.stop])) for part, x0 in parts]
    return torch.cat(each, dim=1)


def _half(labels: Tensor, feature: Tensor) -> Tensor:
    return examples(feature, labels)[0].half()


def inputs(scan: Scan, labelled: Labelled) -> Parts:
    """x0 of all images, in batches: read and encoded once for all levels."""
    return [(part, scan.x0(labelled.images, part)) for part in batches(len(labelled.images), scan.batch)]


def examples(feature: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The linear head's input for a batch: rows (M, D) of a feature (N, rows, columns, D), and their classes (M,).

    labels (N, rows, columns): one row per labelled token; (N,): one per image, the mean over its tokens. A LayerNorm is
    applied to the features, as in a head.
    """
    tokens = F.layer_norm(feature, feature.shape[-1:])
    if labels.ndim == 1:
        return tokens.mean((1, 2)), labels
    known = labels.flatten() != NO_LABEL
    return tokens.flatten(0, 2)[known.to(tokens.device)], labels.flatten()[known]


def figure(labelled: Labelled, confusion: Confusion) -> float:
    """mIoU for segmentation, accuracy for classification."""
    return confusion.accuracy() if labelled.labels.ndim == 1 else confusion.miou()


def _fit(scan: Scan, train: Labelled, parts: Parts, noise: Noise, ridge: float) -> dict[Tap, Tensor]:
    grams: dict[Tap, Tensor] = {}
    targets: dict[Tap, Tensor] = {}
    for part, x0 in parts:
        for tap, feature in scan.walk(x0, noise):
            x, y = examples(feature, train.tokens(scan.grid)[part.start : part.stop])
            x, one_hot = _with_bias(x), F.one_hot(y, train.classes).to(x)
            gram, target = x.T @ x, x.T @ one_hot
            grams[tap] = grams[tap] + gram if tap in grams else gram
            targets[tap] = targets[tap] + target if tap in targets else target
    return {tap: _solve(grams[tap], targets[tap], ridge) for tap in grams}


def _with_bias(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def _solve(gram: Tensor, target: Tensor, ridge: float) -> Tensor:
    return torch.linalg.solve(_damped(gram.cpu().double(), ridge), target.cpu().double()).to(gram)


def _damped(gram: Tensor, ridge: float) -> Tensor:
    return gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
