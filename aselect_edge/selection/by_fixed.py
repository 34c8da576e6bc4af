"""Given timesteps: a single one is used unchanged with its tap; of several, HFR chooses the best one and its tap.

Several timesteps correspond to feature ensembles over {1, 501, 1000}.
"""

from __future__ import annotations

from dataclasses import replace

from aselect_edge.selection.by_hfr import by_hfr
from aselect_edge.selection.choice import Choice, Settings, default_tap
from aselect_edge.selection.evidence import Evidence
from aselect_edge.selection.scan import Scan
from aselect_runtime.errors import InputError

TIMESTEPS = 3
"""Number of evenly spaced timesteps if none are given: the first, the middle and the last."""


def by_fixed(scan: Scan, evidence: Evidence, settings: Settings) -> Choice:
    """The given noise level at the given tap; nothing is measured.

    With several levels, or without a tap, the best by `hfr` on the images, at the tap if one is given. Without images
    the tap is the default, and there must be only one level: raises InputError.
    """
    if len(scan.levels) == 1 and (settings.tap or not len(evidence.images)):
        tap = settings.tap or default_tap(scan.taps, scan.backbone.model.depth)
        return Choice(
            scan.levels[0], tap, note="As asked for, which needs no measurement.", parameters={"tap": str(tap)}
        )
    if not len(evidence.images):
        raise InputError(
            f"got {len(scan.levels)} timesteps and no data for the strategy 'fixed', expected one timestep, or images "
            "to choose by; give one of these",
            parameter=("timestep", "data"),
        )
    steps = ", ".join(f"{level.model_timestep:g}" for level in scan.levels)
    choice = by_hfr(replace(scan, taps=(settings.tap,)) if settings.tap else scan, evidence, settings)
    return replace(choice, note=f"The best of the model timesteps {steps} by HFR: {choice.note}")
