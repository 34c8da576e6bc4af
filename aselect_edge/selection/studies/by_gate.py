"""An attention gate that mixes the features of a few timesteps. Based on secondary sources, see `by_learned`: a small
interpretation of them, not a reproduction.

At one tap, each token's query (a learned vector) attends over its features at K noise levels; the mixture feeds a
linear head. Trained jointly on the task (cross-entropy) and on denoising (a linear map from the mixture to the clean
x0 of the token's patch). The record lists the mean weight of each level. A deployed model has one noise level, so a
mixture can be studied but not exported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.evaluation.metrics import Confusion
from aselect_edge.selection.by_probe import examples, figure
from aselect_edge.selection.choice import Choice, Parameters, Settings, default_tap
from aselect_edge.selection.evidence import NO_LABEL, Evidence, Labelled
from aselect_edge.selection.scan import Scan, batches
from aselect_edge.training.fit import fit
from aselect_runtime.records import LevelWeight, Noise, Score, Tap

LEVELS, BATCH, RATE, DENOISING = 4, 512, 1e-2, 0.1
TOKENS = 48
"""Tokens of each class map that are kept in memory."""


class Gate(nn.Module):
    """Features (M, K, D) of K levels -> class logits (M, C), clean x0 (M, P) and the weights (M, K)."""

    def __init__(self, width: int, classes: int, patch: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.classify, self.denoise = nn.Linear(width, classes), nn.Linear(width, patch)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = (x @ self.query / x.shape[2] ** 0.5).softmax(1)
        mixed = (weights[:, :, None] * x).sum(1)
        return self.classify(mixed), self.denoise(mixed), weights


def by_gate(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """Use at most four levels of the scan, spread evenly, at the given tap or the default; scored on val."""
    train, val = evidence.labels()
    tap = settings.tap or default_tap(scan.taps, scan.backbone.model.depth)
    ordered = sorted(scan.levels, key=lambda level: level.sigma)
    chosen = [ordered[round(i * (len(ordered) - 1) / (LEVELS - 1))] for i in range(LEVELS)]
    levels = list(dict.fromkeys(chosen))
    x, clean, y = _rows(scan, train, tap, levels)
    scan.progress("gate", 0.5)
    gate = _train(x, clean, y, train.classes, settings.steps, scan.seed)
    x, _, y = _rows(scan, val, tap, levels)
    with torch.no_grad():
        logits, _, weights = gate(x)
    confusion = Confusion(val.classes, NO_LABEL)
    confusion.update(logits.argmax(1).numpy(), y.numpy())
    scan.progress("gate", 1.0)
    mean = weights.mean(0) / weights.mean(0).sum()
    mixture = tuple(LevelWeight(noise=n, weight=w) for n, w in zip(levels, mean.tolist(), strict=True))
    heaviest = max(mixture, key=lambda entry: entry.weight).noise
    score = figure(val, confusion)
    note = f"Mixes {len(levels)} noise levels, {score:.3f} on val; not deployable; a method from secondary sources."
    parameters: Parameters = {"tap": str(tap), "steps": settings.steps, "val": score}
    return Choice(heaviest, tap, (Score(noise=heaviest, tap=tap, value=score),), note, parameters, mixture=mixture)


def _rows(scan: Scan, labelled: Labelled, tap: Tap, levels: list[Noise]) -> tuple[Tensor, Tensor, Tensor]:
    """Features (M, K, D), the clean x0 of their patches (M, P) and classes (M,), on the CPU."""
    labels = labelled.sample(scan.grid, scan.seed, TOKENS)
    features, clean, classes = [], [], []
    for part in batches(len(labelled.images), scan.batch):
        x0, target = scan.x0(labelled.images, part), labels[part.start : part.stop]
        found = [examples(scan.features(x0, noise, taps=[tap])[tap], target) for noise in levels]
        features.append(torch.stack([x for x, _ in found], dim=1).cpu())
        classes.append(found[0][1])
        patches = F.adaptive_avg_pool2d(x0, scan.grid).permute(0, 2, 3, 1)  # (N, rows, columns, C)
        known = target.flatten() != NO_LABEL
        clean.append(patches.mean((1, 2)).cpu() if target.ndim == 1 else patches.flatten(0, 2).cpu()[known])
    return torch.cat(features), torch.cat(clean), torch.cat(classes)


def _train(x: Tensor, clean: Tensor, y: Tensor, classes: int, steps: int, seed: int) -> Gate:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        gate = Gate(x.shape[2], classes, clean.shape[1])
    optimiser = torch.optim.AdamW(gate.parameters(), lr=RATE, weight_decay=1e-3)

    def loss(_step: int) -> Tensor:
        chosen = torch.randint(len(y), (min(BATCH, len(y)),), generator=generator)
        logits, restored, _ = gate(x[chosen])
        return F.cross_entropy(logits, y[chosen]) + DENOISING * F.mse_loss(restored, clean[chosen])

    fit(optimiser, loss, steps)
    return gate.eval()
