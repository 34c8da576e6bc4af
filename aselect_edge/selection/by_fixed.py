"""Given timesteps, in the manner of feature ensembles over {1, 501, 1000}: the best of them, and its tap, by HFR."""

from __future__ import annotations

from dataclasses import replace

from aselect_edge.selection.by_hfr import by_hfr
from aselect_edge.selection.choice import Choice, Settings
from aselect_edge.selection.evidence import Evidence
from aselect_edge.selection.scan import Scan

TIMESTEPS = (0, 500, 999)
"""Where `--timesteps` names none."""


def by_fixed(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """`hfr` over the levels that `--timesteps` lists: label-free, a few passes an image."""
    steps = ", ".join(f"{level.model_timestep:g}" for level in scan.levels)
    choice = by_hfr(scan, evidence, settings)
    return replace(choice, note=f"The best of the model timesteps {steps} by HFR: {choice.note}")
