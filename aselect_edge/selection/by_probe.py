"""Selection by labels: a closed-form linear probe of every candidate, scored on held-out images."""

from __future__ import annotations

import torch
from torch import Tensor

from aselect_edge.evaluation.metrics import Confusion
from aselect_edge.selection.choice import Choice, Settings, best_of
from aselect_edge.selection.evidence import NO_LABEL, Evidence, Labelled
from aselect_edge.selection.scan import Scan, batches
from aselect_runtime.records import Noise, Tap


def by_probe(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """One-against-all ridge regressions on a few hundred labelled images pick sigma, block and component jointly.

    Segmentation: a map from tokens to the class at their centre, scored by mIoU over val's tokens. Classification: from
    the mean over tokens to the class, scored by accuracy. Levels are processed one by one, so that memory holds one
    (D+1)x(D+1) Gram matrix per tap, and x0 of the images, for any number of levels.
    """
    train, val = evidence.labels()
    batches_of = {id(part): inputs(scan, part) for part in (train, val)}

    def score(noise: Noise) -> list[float]:
        weights = _fit(scan, train, batches_of[id(train)], noise, settings.ridge)
        confusions = {tap: Confusion(val.classes, NO_LABEL) for tap in scan.taps}
        for part, x0 in batches_of[id(val)]:
            for tap, feature in scan.walk(x0, noise):
                x, y = examples(feature, val.tokens(scan.grid)[part.start : part.stop])
                confusions[tap].update((_with_bias(x) @ weights[tap]).argmax(1).cpu().numpy(), y.numpy())
        return [figure(val, confusions[tap]) for tap in scan.taps]

    scores = scan.scores(scan.by_level(score, "probe"))
    what = "mIoU over val's tokens" if val.labels.ndim > 1 else "accuracy on val"
    note = f"{what} of a ridge probe; {len(train.images)} train and {len(val.images)} val images."
    return best_of(scores, note, {"ridge": settings.ridge})


def inputs(scan: Scan, labelled: Labelled) -> list[tuple[range, Tensor]]:
    """x0 of all images, in batches: read and encoded once for all levels."""
    return [(part, scan.x0(labelled.images, part)) for part in batches(len(labelled.images), scan.batch)]


def examples(feature: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The linear head's input for a batch: rows (M, D) of a feature (N, rows, columns, D), and their classes (M,).

    labels (N, rows, columns): one row per labelled token; (N,): one per image, the mean over its tokens. A LayerNorm is
    applied to the features, as in a head.
    """
    tokens = torch.nn.functional.layer_norm(feature, feature.shape[-1:])
    if labels.ndim == 1:
        return tokens.mean((1, 2)), labels
    known = labels.flatten() != NO_LABEL
    return tokens.flatten(0, 2)[known.to(tokens.device)], labels.flatten()[known]


def figure(labelled: Labelled, confusion: Confusion) -> float:
    """mIoU for segmentation, accuracy for classification."""
    return confusion.accuracy() if labelled.labels.ndim == 1 else confusion.miou()


def _fit(
    scan: Scan, train: Labelled, parts: list[tuple[range, Tensor]], noise: Noise, ridge: float
) -> dict[Tap, Tensor]:
    grams: dict[Tap, Tensor] = {}
    targets: dict[Tap, Tensor] = {}
    for part, x0 in parts:
        for tap, feature in scan.walk(x0, noise):
            x, y = examples(feature, train.tokens(scan.grid)[part.start : part.stop])
            x, one_hot = _with_bias(x), torch.nn.functional.one_hot(y, train.classes).to(x)
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
