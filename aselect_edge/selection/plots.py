"""Plots of a selection: its scores or weights, and features as colours; PNG through matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aselect_edge.evaluation.figure import ACCENT, INK, save, save_images, shrunk
from aselect_runtime.frames import Frame
from aselect_runtime.records import COMPONENTS, Selection


def draw_selection(selection: Selection, path: Path) -> bool:
    """Draw a selection's scores, or else its weights; returns False if it has neither and nothing was drawn."""
    weights = selection.mixture or selection.distribution
    if weights:
        _draw_weights(selection, path)
    elif selection.scores:
        _draw_scores(selection, path)
    return bool(weights or selection.scores)


def _draw_scores(selection: Selection, path: Path) -> None:
    """Scores against sigma, one curve per component at its best block; and of the chosen component by block x sigma."""
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
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
    massive = sorted(each.tap.block for each in selection.massive if each.tap.component == selection.tap.component)
    for block in massive:
        right.axhline(block, color=ACCENT, lw=1, ls=":")
    title = f"{selection.tap.component}, every block" + ("; massive channels in those dotted" if massive else "")
    right.set(xlabel="noise σ", ylabel="block", title=title)
    figure.colorbar(image, label=f"score ({selection.strategy})")
    save(figure, path)


def _draw_weights(selection: Selection, path: Path) -> None:
    """The weight of each noise level in a distribution or a mixture; the largest is marked."""
    weights = sorted(selection.mixture or selection.distribution, key=lambda entry: entry.noise.sigma)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis = figure.subplots()
    places = range(len(weights))
    axis.bar(places, [entry.weight for entry in weights], color=INK)
    axis.set_xticks(places, [f"{entry.noise.sigma:.2f}" for entry in weights], rotation=90 if len(weights) > 12 else 0)
    axis.set(xlabel="noise σ", ylabel=f"weight ({selection.strategy})", title=str(selection.tap))
    heaviest = max(places, key=lambda place: weights[place].weight)
    axis.patches[heaviest].set_color(ACCENT)
    save(figure, path)


def _mark(axis: Any, x: float, y: float, label: str = "") -> None:
    """Draw a ring, and its label on the side with more space."""
    axis.plot(x, y, "o", ms=12, mfc="none", mec=ACCENT, mew=2)
    side, aligned = (-8, "right") if x > sum(axis.get_xlim()) / 2 else (8, "left")
    axis.annotate(label, (x, y), (side, 8), textcoords="offset points", color=ACCENT, ha=aligned)


def draw_features(frame: Frame, maps: Sequence[tuple[str, NDArray[np.float32]]], path: Path) -> None:
    """Plot a frame [H, W, 3] BGR next to feature maps as colours (rows, columns, 3), 0 to 1, each with its title."""
    count = 1 + len(maps)
    width, height = 4.2, 4.2 * frame.shape[0] / frame.shape[1] + 0.4
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)
    axes[0, 0].imshow(shrunk(frame))
    axes[0, 0].set_title("image", color=INK)
    extent = axes[0, 0].images[0].get_extent()
    for axis, (title, colours) in zip(axes[0, 1:], maps, strict=True):
        axis.imshow(colours, extent=extent, interpolation="nearest")
        axis.set_title(title, color=INK)
    save_images(figure, path)
