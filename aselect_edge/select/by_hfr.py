"""The paper's strategy: take the candidate whose features have the highest High-Frequency Ratio."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from aselect_edge.frames import Frame
from aselect_edge.records import DataFingerprint, Noise, Score, Selection, Tap
from aselect_edge.select.hfr import high_frequency_ratio, spectrum
from aselect_edge.select.scan import Scan


def select_by_hfr(
    scan: Scan, frames: Sequence[Frame], data: DataFingerprint, dimensions: int = 2, power: bool = True
) -> Selection:
    """Score every noise level, block and component on unlabelled frames; the winner is the argmax.

    Memory holds one running spectrum per candidate, however many frames there are. Input noise is broadband and
    raises the ratio by itself: where the argmax is among the noisiest tenth, the record's note says so.
    """
    sums: dict[tuple[Noise, Tap], Tensor] = {}
    for noise, _, features in scan.passes(frames, "hfr"):
        for tap, feature in features.items():
            energy = spectrum(feature, dimensions, power)
            key = (noise, tap)
            sums[key] = sums[key] + energy if key in sums else energy
    scores = tuple(
        Score(noise=noise, tap=tap, value=high_frequency_ratio(energy)) for (noise, tap), energy in sums.items()
    )
    best = max(scores, key=lambda score: score.value)
    note = f"{'1-D' if dimensions == 1 else '2-D'} {'power' if power else 'amplitude'}, cutoff 0.15 cycles per token."
    return Selection(
        backbone=scan.backbone.source,
        noise=best.noise,
        tap=best.tap,
        strategy="hfr",
        scores=scores,
        data=data,
        seed=scan.seed,
        note=note + caution(best.noise, scan.levels),
    )


def caution(chosen: Noise, levels: Sequence[Noise]) -> str:
    """What to know where the chosen level is among the noisiest tenth (at least the noisiest); else nothing."""
    noisier = sum(level.sigma > chosen.sigma for level in levels)
    if len(levels) < 2 or noisier > len(levels) // 10:
        return ""
    return " The argmax is among the noisiest levels: the ratio measured noise, not picture. Hold it against val."
