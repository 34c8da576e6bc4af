"""A learned selector g(x0) → p(t). From secondary sources: two texts about A-SelecT describe it; the paper's abstract
and the authors' released code do not. This is a small interpretation of those texts, not a reproduction.

Those texts name a fidelity and an informativeness term. Here, for an image at a noise level and one tap:

- fidelity: the cosine, 0 to 1, of its centred feature and that of a second noise draw;
- informativeness: the feature's High-Frequency Ratio.

g is a two-layer network on x0 averaged to 8x8, trained to maximise fidelity + informativeness: their mean under p
plus an entropy term, which keeps p from collapsing to one level before the scores are reliable.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.selection.choice import Choice, Parameters, Settings, default_tap
from aselect_edge.selection.evidence import Evidence
from aselect_edge.selection.hfr import Measure, check_grid, energies, ratio
from aselect_edge.selection.scan import Scan, batches
from aselect_edge.training.fit import fit
from aselect_runtime.records import LevelWeight, Tap

ENTROPY, RATE, HIDDEN, SIDE = 0.05, 1e-2, 32, 8


def by_learned(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """The mode of the mean of p over all images, at the given tap or the default; the record stores all of p."""
    scan.check_company(evidence.images)
    check_grid(scan.grid, settings.measure)
    tap = settings.tap or default_tap(scan.taps, scan.backbone.model.depth)
    inputs, rewards = [], []
    parts = batches(len(evidence.images), scan.batch)
    for done, part in enumerate(parts, 1):
        x0 = scan.x0(evidence.images, part)
        inputs.append(F.adaptive_avg_pool2d(x0, SIDE).flatten(1).cpu())
        rewards.append(_rewards(scan, x0, part, tap, settings.measure))
        scan.progress("learned", done / len(parts))
    weights = _train(torch.cat(inputs), torch.cat(rewards), settings.steps, scan.seed)
    distribution = tuple(
        LevelWeight(noise=noise, weight=weight) for noise, weight in zip(scan.levels, weights.tolist(), strict=True)
    )
    mode = max(distribution, key=lambda entry: entry.weight)
    note = "The mode of p(t), the selector's mean over all images; a method from secondary sources."
    parameters: Parameters = {"tap": str(tap), "entropy": ENTROPY, "steps": settings.steps, **asdict(settings.measure)}
    return Choice(mode.noise, tap, (), note, parameters, distribution)


def _rewards(scan: Scan, x0: Tensor, part: range, tap: Tap, measure: Measure) -> Tensor:
    """fidelity + informativeness (N, levels) of a batch."""
    columns = []
    for noise in scan.levels:
        first, second = (scan.features(x0, noise, scan.fresh_noise(x0, part, n), [tap])[tap] for n in (0, 1))
        one, other = ((draw - draw.mean(0)).flatten(1).float() for draw in (first, second))
        fidelity = F.cosine_similarity(one, other).clamp(min=0)
        columns.append(fidelity.cpu() + ratio(energies(first, measure)).float().cpu())
    return torch.stack(columns, dim=1)


def _train(inputs: Tensor, rewards: Tensor, steps: int, seed: int) -> Tensor:
    """p (levels,), the trained selector's mean over the images."""

    def loss(_step: int) -> Tensor:
        log_p: Tensor = selector(inputs).log_softmax(1)
        return -(log_p.exp() * (rewards - ENTROPY * log_p)).sum(1).mean()

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        selector = nn.Sequential(nn.Linear(inputs.shape[1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, rewards.shape[1]))
        fit(torch.optim.Adam(selector.parameters(), lr=RATE), loss, steps)
    with torch.no_grad():
        p: Tensor = selector(inputs).softmax(1).mean(0)
    return p / p.sum()
