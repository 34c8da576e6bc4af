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


def draw_selection(selection: Selection, path: Path) -> bool:
    """The picture of a selection's scores, or else of its weights; False if it has neither and nothing was drawn."""
    weights = selection.mixture or selection.distribution
    if weights:
        _draw_weights(selection, path)
    elif selection.scores:
        _draw_scores(selection, path)
    return bool(weights or selection.scores)


def _draw_scores(selection: Selection, path: Path) -> None:
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
            highest = np.where(np.isfinite(values), values, -np.inf).max(axis=1)
            best = int(highest.argmax())
            left.plot(sigmas, values[best], marker=".", label=f"{best}.{component}")
    winner = COMPONENTS.index(selection.tap.component)
    chosen = selection.noise.sigma, table[winner, selection.tap.block, sigmas.index(selection.noise.sigma)]
    _mark(left, *chosen, label=f"{selection.tap}, σ = {chosen[0]:.3f}")
    left.set(xlabel="noise σ", ylabel=f"score ({selection.strategy})", title="each component at its best block")
    left.margins(y=0.12)
    left.legend(fontsize=8, ncols=2, frameon=False)
    image = right.imshow(table[winner], aspect="auto", origin="lower", cmap="viridis")
    _mark(right, sigmas.index(chosen[0]), selection.tap.block)
    step = max(1, len(sigmas) // 6)
    right.set_xticks(range(0, len(sigmas), step), [f"{sigma:.2f}" for sigma in sigmas[::step]])
    right.set_yticks(range(0, blocks, 1 + blocks // 16))
    right.set(xlabel="noise σ", ylabel="block", title=f"{selection.tap.component}, every block")
    figure.colorbar(image, label=f"score ({selection.strategy})")
    _save(figure, path)


def _draw_weights(selection: Selection, path: Path) -> None:
    """What each noise level weighs in a distribution or a mixture, the heaviest marked."""
    weights = sorted(selection.mixture or selection.distribution, key=lambda entry: entry.noise.sigma)
    figure, axis = plt.subplots(figsize=(8, 4.2), constrained_layout=True)
    places = range(len(weights))
    axis.bar(places, [entry.weight for entry in weights], color=_INK)
    axis.set_xticks(places, [f"{entry.noise.sigma:.2f}" for entry in weights], rotation=90 if len(weights) > 12 else 0)
    axis.set(xlabel="noise σ", ylabel=f"weight ({selection.strategy})", title=str(selection.tap))
    heaviest = max(places, key=lambda place: weights[place].weight)
    axis.patches[heaviest].set_color(_ACCENT)
    _save(figure, path)


def _mark(axis: Any, x: float, y: float, label: str = "") -> None:
    """A ring, and its label on the side where the axis has more room."""
    axis.plot(x, y, "o", ms=12, mfc="none", mec=_ACCENT, mew=2)
    side, aligned = (-8, "right") if x > sum(axis.get_xlim()) / 2 else (8, "left")
    axis.annotate(label, (x, y), (side, 8), textcoords="offset points", color=_ACCENT, ha=aligned)


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
