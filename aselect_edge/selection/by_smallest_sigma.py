"""The lowest noise level: the baseline for any score that mostly falls with sigma."""

from __future__ import annotations

from aselect_edge.selection.choice import Choice, Settings, default_tap
from aselect_edge.selection.evidence import Evidence
from aselect_edge.selection.scan import Scan

NOTE = (
    "The least noise at the default tap, which needs no measurement: of the strategies without labels it lost least on "
    "our data sets. With labels, the strategy probe measures every candidate on yours."
)


def by_smallest_sigma(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:  # noqa: ARG001 - reads no images
    """The level of the smallest sigma, at the given tap or the default; no forward pass."""
    noise = min(scan.levels, key=lambda level: level.sigma)
    tap = settings.tap or default_tap(scan.taps, scan.backbone.model.depth)
    return Choice(noise, tap, note=NOTE, parameters={"tap": str(tap)})
