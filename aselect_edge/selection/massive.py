"""Which channels of the scanned taps are massive at the chosen noise level."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from aselect_edge.bundle.discard import IMAGES, magnitude, massive_channels
from aselect_edge.selection.evidence import Images
from aselect_edge.selection.scan import Scan, batches
from aselect_runtime.records import Massive, Noise, Tap


def massive_taps(scan: Scan, images: Images, noise: Noise, taps: Sequence[Tap]) -> tuple[Massive, ...]:
    """Every one of `taps` that has massive channels, in order; one forward pass for each of a few images."""
    if not len(images):
        return ()
    some = images.shuffled(scan.seed)
    sums: dict[Tap, Tensor] = {}
    for part in batches(min(IMAGES, len(some)), scan.batch):
        for tap, feature in scan.walk(scan.x0(some, part), noise, taps=taps):
            found = magnitude(feature)
            sums[tap] = sums[tap] + found if tap in sums else found
    return tuple(
        Massive(tap=tap, channels=channels, ratio=float(sums[tap].max() / sums[tap].median().clamp_min(1e-30)))
        for tap in taps
        if tap in sums and (channels := massive_channels(sums[tap]))
    )
