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

    Classification: from the mean over tokens to the class, fitted on train and scored on val, and the other way round;
    the score is the accuracy over all these images. There are often only a few per class, so that val alone would
    decide by chance. Memory holds the means of one level.
    """
    train, val = evidence.labels()
    parts = inputs(scan, train), inputs(scan, val)
    segmented = val.labels.ndim > 1
    score = partial(_on_val if segmented else _crosswise, scan, train, val, parts, settings.ridge)
    what = "mIoU over val's tokens" if segmented else "accuracy on val by train and on train by val"
    note = f"{what}, of a ridge probe; {len(train.images)} train and {len(val.images)} val images."
    return best_of(scan.scores(scan.by_level(score, "probe")), note, {"ridge": settings.ridge})


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


def _crosswise(
    scan: Scan, train: Labelled, val: Labelled, parts: tuple[Parts, Parts], ridge: float, noise: Noise
) -> list[float]:
    known = train.labels.long(), val.labels.long()
    means = [rows(scan, part, classes, noise).cpu() for part, classes in zip(parts, known, strict=True)]
    of_train, of_val = (F.one_hot(classes, train.classes).double() for classes in known)
    scores = []
    for x_train, x_val in zip(*means, strict=True):
        a, b = _with_bias(x_train.double()), _with_bias(x_val.double())
        right = torch.cat(
            [
                (b @ ridge_regression(a, of_train, ridge)).argmax(1) == known[1],
                (a @ ridge_regression(b, of_val, ridge)).argmax(1) == known[0],
            ]
        )
        scores.append(float(right.double().mean()))
    return scores


def ridge_regression(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Weights (D, C) from rows x (M, D) to y (M, C), float64; the penalty is relative to a column's mean energy."""
    penalty = ridge * x.square().sum() / x.shape[1]
    if len(x) < x.shape[1]:  # the same weights, from the smaller of two systems
        return x.T @ torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x), dtype=x.dtype), y)
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


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
    double = gram.cpu().double()
    damping = ridge * double.diagonal().mean() * torch.eye(len(double), dtype=torch.float64)
    return torch.linalg.solve(double + damping, target.cpu().double()).to(gram)
