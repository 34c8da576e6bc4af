"""HFR with only as many forward passes as the argmax needs: successive halving of the noise levels, then bounds.

One forward pass scores every tap of a level, so levels compete. Each round gives every remaining level as many new
images as it has seen, and keeps the better half (successive halving; Karnin, Koren and Somekh, ICML 2013). It
ends when all other levels are separated from the best, or when a tenth of `hfr`'s forward passes are spent (two
images per level at least).

Definition of "separated". All levels see the same images in the same order under the same noise, so they are compared
in pairs, on the images that both saw. The difference of two ratios of sums has, per image, the influence values

    u_n = (h_n - R·t_n)/mean(t) - (h'_n - R'·t'_n)/mean(t'),

h and t being an image's energy above the cutoff and its total energy. Its standard error is their deviation over root
n; Student's t bounds it at the given confidence, divided among the other levels (Bonferroni), each with its best tap.
Levels that are not separated, often neighbours of the chosen one, are named in the note: `hfr` on all images
might choose one of them.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit

from aselect_edge.selection.choice import Choice, Settings, best_of
from aselect_edge.selection.evidence import Evidence, Images
from aselect_edge.selection.hfr import Measure, check_grid, energies, ratio
from aselect_edge.selection.scan import Scan, batches

BUDGET = 0.1
"""Share of the forward passes that `hfr` would spend on the same images."""
FIRST = 2
"""Images that every level sees in the first round."""

Energies = NDArray[np.float64]


def by_hfr_adaptive(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """The best level and tap that the budget could separate; the note names the levels that it could not."""
    check_grid(scan.grid, settings.measure)
    images = evidence.images.shuffled(scan.seed)
    left = list(range(len(scan.levels)))
    budget = max(int(BUDGET * len(left) * len(images)), FIRST * len(left))
    seen: list[Energies] = [np.empty((0, len(scan.taps), 2)) for _ in left]
    spent = 0
    while True:
        had = len(seen[left[0]])
        new = range(had, min(len(images), max(FIRST, 2 * had), had + (budget - spent) // len(left)))
        if not new:
            break
        looked = _look(scan, images, left, new, settings.measure)
        for level, rows in zip(left, looked, strict=True):
            seen[level] = np.concatenate([seen[level], rows])
        spent += len(new) * len(left)
        scan.progress("hfr-adaptive", spent / budget)
        left.sort(key=lambda level: _best(seen[level])[1], reverse=True)
        if not ties(seen, left[0], settings.confidence):
            break
        left = sorted(left[: max(2, (len(left) + 1) // 2)])
    scan.progress("hfr-adaptive", 1.0)
    values = ratio(torch.from_numpy(np.stack([rows.sum(0) for rows in seen])))
    winner = max(left, key=lambda level: _best(seen[level])[1])
    undecided = ties(seen, winner, settings.confidence)
    choice = best_of(scan.scores(values)[winner * len(scan.taps) : (winner + 1) * len(scan.taps)], "", {})
    note = f"{settings.measure}; {_verdict(scan, undecided, settings.confidence)}."
    parameters = {**asdict(settings.measure), "confidence": settings.confidence, "resolved": not undecided}
    return replace(choice, scores=scan.scores(values), note=note, parameters=parameters)


def ties(seen: list[Energies], winner: int, confidence: float) -> list[int]:
    """The levels whose best tap is not separated from the winner's; `seen` is (images, taps, 2) per level."""
    rivals = [level for level in range(len(seen)) if level != winner]
    return [level for level in rivals if _upper_bound(seen[level], seen[winner], confidence, len(rivals)) >= 0]


def _upper_bound(rival: Energies, winner: Energies, confidence: float, comparisons: int) -> float:
    """Upper bound of the difference between the ratios of two levels' best taps, on the images that both saw."""
    both = min(len(rival), len(winner))
    tap, best = _best(rival)[0], _best(winner)[0]
    rival, winner = rival[:both, tap], winner[:both, best]
    if both < 2:
        return np.inf
    ratios, influence = [], np.zeros(both)
    for each, sign in ((rival, 1.0), (winner, -1.0)):
        high, total = each.T
        value = high.sum() / total.sum() if total.sum() > 0 else 0.0
        ratios.append(value)
        influence += sign * (high - value * total) / max(total.mean(), np.finfo(float).tiny)
    error = influence.std(ddof=1) / np.sqrt(both)
    return float(ratios[0] - ratios[1] + error * stdtrit(both - 1, 1 - (1 - confidence) / comparisons))


def _best(seen: Energies) -> tuple[int, float]:
    """The tap with the highest ratio over the images, and that ratio."""
    values = ratio(torch.from_numpy(seen.sum(0)))
    return int(values.argmax()), float(values.max())


def _look(scan: Scan, images: Images, levels: list[int], part: range, measure: Measure) -> Energies:
    """Energies (levels, images, taps, 2) of the images of `part`; the team divides the images."""
    seen = torch.zeros(len(levels), len(part), len(scan.taps), 2, dtype=torch.float64)
    units = [(piece, row) for piece in batches(len(part), scan.batch) for row in range(len(levels))]
    for piece, row in scan.team.share(units):
        chosen = range(part[piece.start], part[piece.start] + len(piece))
        found = scan.readings(
            scan.x0(images, chosen),
            scan.levels[levels[row]],
            lambda feature: energies(feature, measure),
        )
        seen[row, piece.start : piece.stop] = found.cpu().transpose(0, 1)
    return scan.team.sum(seen).numpy()


def _verdict(scan: Scan, undecided: list[int], confidence: float) -> str:
    if not undecided:
        return f"the winner beats every other noise level at {confidence:.0%} confidence"
    steps = ", ".join(f"{scan.levels[level].model_timestep:g}" for level in undecided)
    return f"not separated from the winner at {confidence:.0%} confidence: model timesteps {steps}"
