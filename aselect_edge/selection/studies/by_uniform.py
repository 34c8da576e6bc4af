"""A level and a tap drawn at random, all alike: what a selection is worth is what it gains over this."""

from __future__ import annotations

import random

from aselect_edge.selection.choice import Choice, Settings
from aselect_edge.selection.evidence import Evidence
from aselect_edge.selection.scan import Scan


def by_uniform(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:  # noqa: ARG001 - looks at nothing
    """One draw from the scan's seed, at the asked tap or any; no forward pass."""
    rng = random.Random(scan.seed)
    return Choice(rng.choice(scan.levels), settings.tap or rng.choice(scan.taps), note="Drawn at random.")
