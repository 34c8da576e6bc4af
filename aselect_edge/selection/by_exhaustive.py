"""Exhaustive search: train a head for every candidate and keep the best. The baseline of every cheaper strategy.

Features are computed once per level and image, normalised as in a head and cached in float16; of a class map, a random
sample of `TOKENS` tokens per image. The linear heads of all taps of a level are trained at once, as one
batched product: softmax regression by AdamW, `steps` steps of `BATCH` rows, rate `RATE` with a cosine to zero.
With `head="conv"` the default decoder of `aselect-train` is trained instead, tap by tap on whole frames,
without augmented views and without fine-tuning.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.bundle.model import upsample
from aselect_edge.evaluation.metrics import Confusion
from aselect_edge.heads import build_head
from aselect_edge.selection.by_probe import Parts, figure, inputs, rows
from aselect_edge.selection.choice import Choice, Settings, best_of
from aselect_edge.selection.evidence import NO_LABEL, Evidence, Labelled
from aselect_edge.selection.scan import Scan
from aselect_edge.training.fit import cosine, fit
from aselect_runtime.errors import InputError
from aselect_runtime.records import HeadSpec, Noise, Tap

TOKENS, BATCH, RATE = 48, 256, 1e-2
CONV = HeadSpec(kind="conv", channels=128)
CONV_BATCH, CONV_RATE = 8, 2e-3


def by_exhaustive(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """mIoU (segmentation, over val's tokens; with the conv head over its pixels) or accuracy of a head per candidate.

    Memory holds the cached features of one level.
    """
    train, val = evidence.labels()
    if settings.head == "conv" and train.labels.ndim == 1:
        raise InputError("got the head 'conv' for classification, expected 'linear'; change it", parameter="head")
    learnt, held_out = inputs(scan, train), inputs(scan, val)

    def score(noise: Noise) -> list[float]:
        if settings.head == "conv":
            maps = _whole(scan, learnt, noise), _whole(scan, held_out, noise)
            return [_conv(maps[0][tap], train, maps[1][tap], val, settings.steps, scan.seed) for tap in scan.taps]
        x, y = _rows(scan, train, learnt, noise)
        weights = train_linear(x, y, train.classes, settings.steps, scan.seed)
        return _evaluate(weights, *_rows(scan, val, held_out, noise), val)

    scores = scan.scores(scan.by_level(score, "exhaustive"))
    images = f"{len(train.images)} train and {len(val.images)} val images"
    note = f"{settings.head} heads, {settings.steps} steps each; {images}."
    return best_of(scores, note, {"head": settings.head, "steps": settings.steps})


def train_linear(x: Tensor, y: Tensor, classes: int, steps: int, seed: int) -> Tensor:
    """Weights (K, D+1, C) of K softmax regressions, trained in parallel on rows x (K, M, D) of classes y (M,)."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(len(x), x.shape[2] + 1, classes, device=x.device, requires_grad=True)
    optimiser = torch.optim.AdamW([weights], lr=RATE, weight_decay=1e-3)

    def loss(_step: int) -> Tensor:
        chosen = torch.randint(len(y), (min(BATCH, len(y)),), generator=generator)
        logits = _logits(weights, x[:, chosen.to(x.device)].float())
        target = y[chosen].to(x.device).expand(len(x), -1)
        # A sum over heads, so that each is trained independently.
        return F.cross_entropy(logits.flatten(0, 1), target.flatten()) * len(x)

    fit(optimiser, loss, steps, rate=cosine)
    return weights.detach()


def _logits(weights: Tensor, x: Tensor) -> Tensor:
    return torch.baddbmm(weights[:, -1:], x, weights[:, :-1])


def _evaluate(weights: Tensor, x: Tensor, y: Tensor, val: Labelled) -> list[float]:
    figures = []
    for weight, mine in zip(weights, x, strict=True):
        confusion = Confusion(val.classes, NO_LABEL)
        confusion.update(_logits(weight[None], mine[None].float())[0].argmax(1).cpu().numpy(), y.numpy())
        figures.append(figure(val, confusion))
    return figures


def _rows(scan: Scan, labelled: Labelled, parts: Parts, noise: Noise) -> tuple[Tensor, Tensor]:
    """Rows (taps, M, D) in float16 and classes (M,): for class maps the same random tokens at every tap and level."""
    labels = labelled.sample(scan.grid, scan.seed, TOKENS)
    return rows(scan, parts, labels, noise), labels[labels != NO_LABEL]


def _whole(scan: Scan, parts: Parts, noise: Noise) -> dict[Tap, Tensor]:
    """Whole feature maps (N, rows, columns, D) in float16."""
    maps: dict[Tap, list[Tensor]] = {tap: [] for tap in scan.taps}
    for _, x0 in parts:
        for tap, feature in scan.walk(x0, noise):
            maps[tap].append(feature.half())
    return {tap: torch.cat(found) for tap, found in maps.items()}


def _conv(x: Tensor, train: Labelled, x_val: Tensor, val: Labelled, steps: int, seed: int) -> float:
    """mIoU of one convolutional decoder trained on cached feature maps."""
    generator = torch.Generator().manual_seed(seed)

    def loss(_step: int) -> Tensor:
        chosen = torch.randint(len(x), (min(CONV_BATCH, len(x)),), generator=generator)
        logits = upsample(head((x[chosen].float(),)), _size(train))
        return F.cross_entropy(logits, train.labels[chosen].long().to(x.device), ignore_index=NO_LABEL)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = build_head(CONV, "seg", [x.shape[3]], train.classes).to(x.device)
        fit(torch.optim.AdamW(head.parameters(), lr=CONV_RATE, weight_decay=0.03), loss, steps, rate=cosine)
    head.eval()
    confusion = Confusion(val.classes, NO_LABEL)
    with torch.no_grad():
        for features, labels in zip(x_val.split(CONV_BATCH), val.labels.split(CONV_BATCH), strict=True):
            confusion.update(upsample(head((features.float(),)), _size(val)).argmax(1).cpu().numpy(), labels.numpy())
    return confusion.miou()


def _size(labelled: Labelled) -> tuple[int, int]:
    return labelled.labels.shape[1], labelled.labels.shape[2]
