"""Cross-spectral HFR: the high-frequency power that two noise draws of one image agree on. This project's own.

Why. Write the spectrum of a feature as F = S + N: S is what the image determines, N what the input noise eps adds,
independent of S and of another draw's. Then E|F|² = |S|² + |N|², and with ν the noise's share of the power and
r_S, r_N the high-frequency shares of the two parts, the plain ratio estimates

    HFR = (1 - ν)·r_S + ν·r_N.

Input noise is broadband, so r_N is near the share of the band itself (0.93 on a square grid at the cutoff 0.15, if
white), while images have r_S far below. As sigma grows, ν grows and the plain ratio climbs to r_N whatever the
features know: a bias of ν·(r_N - r_S), which does not shrink with more images.

What. Push each image through twice with independent draws. The noises are independent, so E[F1·conj(F2)] = |S|²:
the real part of the cross-spectrum estimates the signal's power without bias, frequency by frequency. The score

    signal = sum over high f of Re F1·conj(F2)  /  sum over all f of (|F1|² + |F2|²)/2  →  (1 - ν)·r_S

keeps the noise in the denominator, so a level that drowns its features is penalised rather than rewarded.

The position embedding is common to both draws and to all images, and must not count as signal. Each batch is
therefore centred over its images, token by token and channel by channel (`shared_energies`): that removes what all
images share, costs a factor (B - 1)/B that cancels in the ratio, and needs no second pass and no sums of T x D
numbers per candidate, which for DiT-XL/2 would be gigabytes. It takes batches of two or more images.

What it cannot do. Non-linear layers mix S and N, so "signal" is whatever of the feature a second draw reproduces. A
deployed model's noise is one fixed draw, so part of N is a constant that a head can learn to ignore; here the noise
differs from image to image, and ν overstates its harm. The score falls with sigma wherever noise only hides; where it
only falls, it is no better than `smallest-sigma`.
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
    """Two forward passes per image and level; power alone, without the mean, whatever else is asked."""
    measure = settings.measure
    check_grid(scan.grid, measure)
    scan.check_company(evidence.images)
    if measure.dc or not measure.power:
        raise InputError(f"got {measure} for hfr-signal, expected power without the mean; leave those options out")

    def look(x0: Tensor, noise: Noise, part: range) -> Tensor:
        first, second = (scan.walk(x0, noise, scan.fresh_noise(x0, part, draw)) for draw in (0, 1))
        both = zip(first, second, strict=True)  # side by side, so that memory holds one block of each
        shared = {tap: shared_energies(one, other, measure) for (tap, one), (_, other) in both}
        return torch.stack([shared[tap] for tap in scan.taps])

    values = ratio(scan.sweep(evidence.images, look, 2, "hfr-signal"))
    parameters = {key: value for key, value in asdict(measure).items() if key in ("dimensions", "cutoff")}
    return best_of(scan.scores(values), f"{measure}, of what two draws of the noise share.", parameters)
