"""The paper's strategy: choose the candidate whose features have the highest High-Frequency Ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from torch import Tensor

from aselect_edge.selection.choice import Choice, Settings, best_of
from aselect_edge.selection.evidence import Evidence
from aselect_edge.selection.hfr import check_grid, energies, ratio
from aselect_edge.selection.scan import Scan
from aselect_runtime.records import Noise


def by_hfr(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """Score every noise level, block and component on unlabelled images and choose the argmax.

    One forward pass per image and level. Input noise is broadband and raises the ratio by itself: if the argmax is
    among the noisiest tenth, the note says so.
    """
    measure = settings.measure
    check_grid(scan.grid, measure)

    def look(x0: Tensor, noise: Noise, _part: range) -> Tensor:
        return scan.readings(x0, noise, lambda feature: energies(feature, measure).sum(0))

    scores = scan.scores(ratio(scan.sweep(evidence.images, look, 2, "hfr")))
    choice = best_of(scores, f"{measure}.", asdict(measure))
    return replace(choice, note=choice.note + caution(choice.noise, scan.levels))


def caution(chosen: Noise, levels: Sequence[Noise]) -> str:
    """A warning if the chosen level is among the noisiest tenth (at least the noisiest); else an empty string."""
    noisier = sum(level.sigma > chosen.sigma for level in levels)
    if len(levels) < 2 or noisier > len(levels) // 10:
        return ""
    return " The argmax is among the noisiest levels: the ratio measured noise, not image content. Check it on val."
