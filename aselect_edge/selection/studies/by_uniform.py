"""A level and a tap drawn uniformly at random: the baseline of every selection."""

from __future__ import annotations

import random

from aselect_edge.selection.choice import Choice, Settings
from aselect_edge.selection.evidence import Evidence
from aselect_edge.selection.scan import Scan


def by_uniform(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:  # noqa: ARG001 - reads no images
    """One draw with the scan's seed, at the given tap or a random one; no forward pass."""
    rng = random.Random(scan.seed)
    return Choice(rng.choice(scan.levels), settings.tap or rng.choice(scan.taps), note="Drawn at random.")
