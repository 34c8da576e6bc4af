"""Cross-spectral HFR: the high-frequency power that two noise draws of one image share. Developed in this project.

Reason. Write the spectrum of a feature as F = S + N: S is determined by the image, N is added by the input noise eps,
independent of S and of another draw's N. Then E|F|² = |S|² + |N|², and with ν the noise's share of the power and
r_S, r_N the high-frequency shares of the two parts, the plain ratio estimates

    HFR = (1 - ν)·r_S + ν·r_N.

Input noise is broadband, so r_N is near the share of the band itself (0.93 on a square grid at the cutoff 0.15, if
white), while images have r_S far below. As sigma grows, ν grows and the plain ratio approaches r_N whatever the
features contain: a bias of ν·(r_N - r_S), which does not shrink with more images.

Method. Run each image twice with independent draws. The noises are independent, so E[F1·conj(F2)] = |S|²:
the real part of the cross-spectrum estimates the signal's power without bias, frequency by frequency. The score

    signal = sum over high f of Re F1·conj(F2)  /  sum over all f of (|F1|² + |F2|²)/2  →  (1 - ν)·r_S

keeps the noise in the denominator, so a level whose features are dominated by noise gets a low score.

The position embedding is common to both draws and to all images, and must not count as signal. Each batch is
therefore centred over its images, token by token and channel by channel (`shared_energies`): that removes the part
common to all images, costs a factor (B - 1)/B that cancels in the ratio, and needs no second pass and no sums of T x D
numbers per candidate, which for DiT-XL/2 would be gigabytes. It needs batches of two or more images.

Limits. Non-linear layers mix S and N, so "signal" is the part of the feature that a second draw reproduces. A deployed
model's noise is one fixed draw, so part of N is a constant that a head can learn to ignore; here the noise differs from
image to image, and ν overstates its effect. If noise only hides information, the score falls with sigma; if it falls
everywhere, the strategy is no better than `smallest-sigma`.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from aselect_edge.selection.choice import Choice, Settings, best_of
from aselect_edge.selection.evidence import Evidence
from aselect_edge.selection.hfr import check_grid, ratio, shared_energies
from aselect_edge.selection.scan import Scan
from aselect_runtime.errors import InputError
from aselect_runtime.records import Noise


def by_hfr_signal(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """Two forward passes per image and level; measures only power, without the mean."""
    measure = settings.measure
    check_grid(scan.grid, measure)
    scan.check_company(evidence.images)
    if measure.dc or not measure.power:
        raise InputError(f"got {measure} for hfr-signal, expected power without the mean; leave those options out")

    def look(x0: Tensor, noise: Noise, part: range) -> Tensor:
        first, second = (scan.walk(x0, noise, scan.fresh_noise(x0, part, draw)) for draw in (0, 1))
        both = zip(first, second, strict=True)  # in parallel, so that memory holds one block of each
        shared = {tap: shared_energies(one, other, measure) for (tap, one), (_, other) in both}
        return torch.stack([shared[tap] for tap in scan.taps])

    values = ratio(scan.sweep(evidence.images, look, 2, "hfr-signal"))
    parameters = {key: value for key, value in asdict(measure).items() if key in ("dimensions", "cutoff")}
    return best_of(scan.scores(values), f"{measure}, of the part that two draws of the noise share.", parameters)
