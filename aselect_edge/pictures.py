"""Pictures of results that people would rather look at than read; PNG through matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from aselect_edge.files import atomic_file
from aselect_edge.records import COMPONENTS, Selection

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_INK, _ACCENT = "#333333", "#d1495b"


def draw_selection(selection: Selection, path: Path) -> None:
    """Scores against sigma, one curve per component at its best block, and a block x sigma map of the winner's."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), width_ratios=(3, 2), constrained_layout=True)
    sigmas = sorted({score.noise.sigma for score in selection.scores})
    blocks = 1 + max(score.tap.block for score in selection.scores)
    table = np.full((len(COMPONENTS), blocks, len(sigmas)), np.nan)
    for score in selection.scores:
        at = COMPONENTS.index(score.tap.component), score.tap.block, sigmas.index(score.noise.sigma)
        table[at] = score.value
    for component, values in zip(COMPONENTS, table, strict=True):
        if np.isfinite(values).any():
            best = int(np.nanargmax(np.nanmax(values, axis=1)))
            left.plot(sigmas, values[best], marker=".", label=f"{best}.{component}")
    winner = COMPONENTS.index(selection.tap.component)
    chosen = selection.noise.sigma, table[winner, selection.tap.block, sigmas.index(selection.noise.sigma)]
    left.plot(*chosen, "o", ms=12, mfc="none", mec=_ACCENT, mew=2)
    left.annotate(f"{selection.tap}, σ = {chosen[0]:.3f}", chosen, (8, 8), textcoords="offset points", color=_ACCENT)
    left.set(xlabel="noise σ", ylabel=f"score ({selection.strategy})", title="each component at its best block")
    left.legend(fontsize=8, ncols=2, frameon=False)
    image = right.imshow(table[winner], aspect="auto", origin="lower", cmap="viridis")
    right.plot(sigmas.index(chosen[0]), selection.tap.block, "o", ms=12, mfc="none", mec=_ACCENT, mew=2)
    step = max(1, len(sigmas) // 6)
    right.set_xticks(range(0, len(sigmas), step), [f"{sigma:.2f}" for sigma in sigmas[::step]])
    right.set_yticks(range(blocks))
    right.set(xlabel="noise σ", ylabel="block", title=f"{selection.tap.component}, every block")
    figure.colorbar(image)
    _save(figure, path)


def draw_curve(rows: Sequence[Sequence[float]], names: Sequence[str], path: Path) -> None:
    """Learning curves over the first column (samples), one panel for each further column."""
    figure, axes = plt.subplots(1, len(names) - 1, figsize=(5 * (len(names) - 1), 3.4), constrained_layout=True)
    columns = np.array(rows, float).T
    for axis, name, values in zip(np.atleast_1d(axes), names[1:], columns[1:], strict=True):
        axis.plot(columns[0], values, color=_INK)
        axis.set(xlabel=names[0], title=name)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
