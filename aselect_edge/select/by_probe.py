"""Ask the labels: a closed-form linear probe of every candidate, scored on held-out frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aselect_edge.frames import Frame, resize_label
from aselect_edge.metrics import Confusion
from aselect_edge.records import DataFingerprint, Noise, Score, Selection, Tap
from aselect_edge.select.scan import Scan

Labelled = Sequence[tuple[Frame, Frame]]


def select_by_probe(
    scan: Scan, train: Labelled, val: Labelled, classes: int, ignore: int, data: DataFingerprint, ridge: float = 1e-3
) -> Selection:
    """Fit one-against-all ridge regressions from tokens to classes and score their mIoU on `val`'s tokens.

    `train` and `val` hold (BGR frame, label map) pairs. A token's class is the label at its centre. Memory holds
    one (D+1)x(D+1) Gram matrix per candidate. `ridge` is relative to the mean feature energy.
    """
    grid = scan.backbone.grid(scan.imgsz)
    grams: dict[tuple[Noise, Tap], Tensor] = {}
    targets: dict[tuple[Noise, Tap], Tensor] = {}
    labels = _token_labels(train, grid, scan, ignore)
    for noise, part, features in scan.passes([frame for frame, _ in train], "probe: fit"):
        known = labels[part].flatten() != ignore
        one_hot = torch.nn.functional.one_hot(labels[part].flatten()[known].long(), classes).float()
        for tap, feature in features.items():
            x = _with_bias(feature)[known]
            key = (noise, tap)
            grams[key] = grams.get(key, torch.zeros(())) + x.T @ x
            targets[key] = targets.get(key, torch.zeros(())) + x.T @ one_hot
    weights = {key: _solve(grams[key], targets[key], ridge) for key in grams}
    confusions = {key: Confusion(classes, ignore) for key in grams}
    labels = _token_labels(val, grid, scan, ignore)
    for noise, part, features in scan.passes([frame for frame, _ in val], "probe: score"):
        target = labels[part].flatten().numpy()
        for tap, feature in features.items():
            prediction = (_with_bias(feature) @ weights[noise, tap]).argmax(1).to(torch.uint8).numpy()
            confusions[noise, tap].update(prediction, target)
    scores = tuple(
        Score(noise=noise, tap=tap, value=confusion.miou()) for (noise, tap), confusion in confusions.items()
    )
    best = max(scores, key=lambda score: score.value)
    return Selection(
        backbone=scan.backbone.source,
        noise=best.noise,
        tap=best.tap,
        strategy="probe",
        scores=scores,
        data=data,
        seed=scan.seed,
        note=f"mIoU over val tokens of a ridge probe; {len(train)} train and {len(val)} val frames.",
    )


def _token_labels(pairs: Labelled, grid: tuple[int, int], scan: Scan, ignore: int) -> Tensor:
    rows, columns = grid
    patch = (scan.imgsz[0] // rows, scan.imgsz[1] // columns)
    maps = np.stack([resize_label(label, scan.imgsz, scan.resize, ignore) for _, label in pairs])
    return torch.from_numpy(maps[:, patch[0] // 2 :: patch[0], patch[1] // 2 :: patch[1]].copy())


def _with_bias(feature: Tensor) -> Tensor:
    # A head sees its features through a LayerNorm, so the probe does too.
    tokens = torch.nn.functional.layer_norm(feature.flatten(0, 2), feature.shape[-1:])
    return torch.cat([tokens, torch.ones(len(tokens), 1)], dim=1)


def _solve(gram: Tensor, target: Tensor, ridge: float) -> Tensor:
    gram, target = gram.double(), target.double()
    damping = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(gram + damping, target)
    return weights.float()
