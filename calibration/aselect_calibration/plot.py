"""The plot of a sensitivity report: the error of each layer, and the decision."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aselect_edge.evaluation.figure import ACCENT, save
from aselect_runtime.records import Quantisation

_QUANTISED, _RETURNED = "#2e86ab", ACCENT
_FLOOR = 1e-12
"""Length of the bar of a layer without error, on the logarithmic axis."""


def draw_damage(found: Quantisation, path: Path) -> None:
    """Plot one bar per layer, worst at the top: its error on a logarithmic axis, coloured by the decision."""
    layers, form = found.layers[::-1], found.form.upper()
    figure = Figure(figsize=(8, 1.4 + 0.22 * len(layers)), layout="constrained")
    axis = figure.subplots()
    axis.barh(
        [one.layer for one in layers],
        [max(one.damage, _FLOOR) for one in layers],
        color=[_QUANTISED if one.int8 else _RETURNED for one in layers],
    )
    axis.set_xscale("log")
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel(f"error in the logits, this layer alone in {form} (noise / signal energy)")
    axis.set_title(
        f"{found.metric}: {found.fp32:.4f} in FP32, {found.int8:.4f} in {form}, on {found.images} images", fontsize=10
    )
    returned = found.rest.upper()
    handles = [Patch(color=_QUANTISED, label=form), Patch(color=_RETURNED, label=f"given back to {returned}")]
    axis.legend(handles=handles, loc="lower right", fontsize=8, frameon=False)
    save(figure, path)
