"""Plots of results; PNG through matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from aselect_runtime.files import atomic_file
from aselect_runtime.frames import Frame, stretched
from aselect_runtime.records import COMPONENTS, ClassInfo, Selection

_INK, _ACCENT, _FAINT = "#333333", "#d1495b", "#e4e4e4"
_UNLABELLED = (40, 40, 40)
"""RGB of pixels that have no class."""
_MOST_CLASSES = 60
"""Maximum number of classes in a confusion plot, so that it stays readable."""
_SHOWN = 480
"""Longest side of a frame in a plot of examples, in pixels."""


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
        right.axhline(block, color=_ACCENT, lw=1, ls=":")
    title = f"{selection.tap.component}, every block" + ("; massive channels in those dotted" if massive else "")
    right.set(xlabel="noise σ", ylabel="block", title=title)
    figure.colorbar(image, label=f"score ({selection.strategy})")
    _save(figure, path)


def _draw_weights(selection: Selection, path: Path) -> None:
    """The weight of each noise level in a distribution or a mixture; the largest is marked."""
    weights = sorted(selection.mixture or selection.distribution, key=lambda entry: entry.noise.sigma)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis = figure.subplots()
    places = range(len(weights))
    axis.bar(places, [entry.weight for entry in weights], color=_INK)
    axis.set_xticks(places, [f"{entry.noise.sigma:.2f}" for entry in weights], rotation=90 if len(weights) > 12 else 0)
    axis.set(xlabel="noise σ", ylabel=f"weight ({selection.strategy})", title=str(selection.tap))
    heaviest = max(places, key=lambda place: weights[place].weight)
    axis.patches[heaviest].set_color(_ACCENT)
    _save(figure, path)


def _mark(axis: Any, x: float, y: float, label: str = "") -> None:
    """Draw a ring, and its label on the side with more space."""
    axis.plot(x, y, "o", ms=12, mfc="none", mec=_ACCENT, mew=2)
    side, aligned = (-8, "right") if x > sum(axis.get_xlim()) / 2 else (8, "left")
    axis.annotate(label, (x, y), (side, 8), textcoords="offset points", color=_ACCENT, ha=aligned)


def draw_curve(
    rows: Sequence[Sequence[float]],
    titles: tuple[str, str],
    path: Path,
    targets: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Learning curves of rows (samples, loss on train, figure on val, loss on val or NaN): the losses, then the figure.

    A dashed line marks the best figure, and one each of `targets`, by name, which it is to be held against.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    samples, train, figures, val = np.array(rows, float).T
    left.plot(samples, train, color=_INK, label="train")
    if np.isfinite(val).any():
        left.plot(samples, val, color=_ACCENT, label="val")
    left.legend(frameon=False)
    left.set(xlabel="samples", title=titles[0])
    right.plot(samples, figures, color=_INK)
    for name, level in {"best": figures.max(), **targets}.items():
        right.axhline(level, color=_ACCENT if name == "best" else _INK, linestyle="--", linewidth=1)
        label = f"{name} {level:.3f}"
        right.annotate(label, (samples[0], level), (0, 3), textcoords="offset points", fontsize=8)
    right.set(xlabel="samples", title=titles[1])
    _save(figure, path)


def draw_confusion(matrix: NDArray[np.int64], classes: Sequence[ClassInfo], path: Path) -> None:
    """Plot counts (C, C), true class by predicted class, as percent of the true class; a grey row has no count.

    With many classes only the most confused ones are shown, in their order; the title says so.
    """
    counts = np.asarray(matrix, float)
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    shown = _most_confused(counts, _MOST_CLASSES)
    shares = shares[np.ix_(shown, shown)]
    few = len(shown) <= 15
    cell, font = (0.5, 9.0) if few else (0.24, 7.0)
    names = [_short(classes[index].name) for index in shown]
    margin = 0.35 + max(map(len, names)) * font * 0.0088
    side = max(len(names) * cell, 2.4)
    figure = Figure(figsize=(side + margin + 1.1, side + margin + 0.9), layout="constrained")
    axis = figure.subplots()
    colours = colormaps["Blues"].with_extremes(bad=_FAINT)
    image = axis.imshow(shares, cmap=colours, vmin=0, vmax=100)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=font)
    axis.set_yticks(range(len(names)), names, fontsize=font)
    axis.tick_params(length=0)
    axis.set_xlabel("predicted", fontsize=font + 2)
    axis.set_ylabel("true", fontsize=font + 2)
    right = np.divide(np.trace(counts), counts.sum()) if counts.any() else 0.0
    part = f"the {len(names)} most confused of {len(classes)} classes\n" if len(names) < len(classes) else ""
    axis.set_title(f"{part}% of each true class; overall accuracy {100 * right:.1f} %", fontsize=font + 2, pad=10)
    _grid(axis, len(names))
    for row, column in np.argwhere(shares >= (0.5 if few else 5)):  # with many classes, small shares are left out
        share = shares[row, column]
        ink = "white" if share > 55 else _INK
        axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=font - 1, color=ink)
    bar = figure.colorbar(image, shrink=0.6, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=font)
    _save(figure, path)


def _most_confused(counts: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """At most `most` indices, ascending: of the pairs of classes that are most often confused with each other."""
    if len(counts) <= most:
        return np.arange(len(counts))
    between = np.triu(counts + counts.T, 1)
    pairs = np.stack(np.unravel_index(np.argsort(-between, axis=None, kind="stable"), between.shape), axis=1)
    found: list[int] = list(dict.fromkeys(pairs[between[pairs[:, 0], pairs[:, 1]] > 0].ravel().tolist()))
    return np.array(sorted([*found, *(index for index in range(len(counts)) if index not in found)][:most]))


def _grid(axis: Any, count: int) -> None:
    """White lines between the cells of a map."""
    axis.set_xticks(np.arange(count - 1) + 0.5, minor=True)
    axis.set_yticks(np.arange(count - 1) + 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=0.8)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)


def _short(name: str) -> str:
    """A name that fits, and in which matplotlib finds no formula, which it would between two dollars."""
    return (name if len(name) <= 28 else name[:27] + "…").replace("$", r"\$")


def draw_features(frame: Frame, maps: Sequence[tuple[str, NDArray[np.float32]]], path: Path) -> None:
    """Plot a frame [H, W, 3] BGR next to feature maps as colours (rows, columns, 3), 0 to 1, each with its title."""
    count = 1 + len(maps)
    width, height = 4.2, 4.2 * frame.shape[0] / frame.shape[1] + 0.4
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)
    axes[0, 0].imshow(_shrunk(frame))
    axes[0, 0].set_title("image", color=_INK)
    extent = axes[0, 0].images[0].get_extent()
    for axis, (title, colours) in zip(axes[0, 1:], maps, strict=True):
        axis.imshow(colours, extent=extent, interpolation="nearest")
        axis.set_title(title, color=_INK)
    _save_images(figure, axes, path)


Example = tuple[Frame, Frame | int, Frame | int]
"""A frame [H, W, 3] BGR, its label and the prediction: class maps uint8 [H, W], or classes."""


def draw_examples(rows: Sequence[Example], classes: Sequence[ClassInfo], path: Path) -> None:
    """Plot frames next to label and prediction: class maps as overlays, or classes as text below."""
    mapped = [row for row in rows if isinstance(row[1], np.ndarray)]
    if mapped:
        _draw_maps(mapped, classes, path)
    else:
        _draw_classes(rows, classes, path)


def _draw_maps(rows: Sequence[Example], classes: Sequence[ClassInfo], path: Path) -> None:
    palette = np.full((256, 3), _UNLABELLED, np.uint8)
    palette[: len(classes)] = [info.colour for info in classes]
    shape = rows[0][0].shape
    figure = Figure(figsize=(12, 0.6 + len(rows) * 4 * shape[0] / shape[1]), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    seen: set[int] = set()
    for line, (frame, label, prediction) in zip(axes, rows, strict=True):
        image = _shrunk(frame)
        line[0].imshow(image)
        for axis, given in zip(line[1:], (label, prediction), strict=True):
            classmap = cv2.resize(np.asarray(given), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            axis.imshow((0.3 * image + 0.7 * palette[classmap]).astype(np.uint8))
            seen.update(np.unique(classmap).tolist())
    for axis, title in zip(axes[0], ("frame", "labelled", "predicted"), strict=True):
        axis.set_title(title, color=_INK)
    names = [(info.name, info.colour) for n, info in enumerate(classes) if n in seen]
    if any(n >= len(classes) for n in seen):
        names.append(("no label", _UNLABELLED))
    patches = [Patch(color="#{:02x}{:02x}{:02x}".format(*colour), label=_short(name)) for name, colour in names]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), frameon=False)
    _save_images(figure, axes, path)


def _draw_classes(rows: Sequence[Example], classes: Sequence[ClassInfo], path: Path) -> None:
    columns = max(1, min(4, len(rows)))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3 * columns, 3.1 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, (frame, label, prediction) in zip(axes.flat, rows, strict=False):
        right = label == prediction
        axis.imshow(_shrunk(frame))
        said = _short(classes[int(prediction)].name)
        axis.set_title(said, fontsize=10, color=_INK if right else _ACCENT)
        if not right:
            axis.text(
                0.5,
                -0.03,
                f"is {_short(classes[int(label)].name)}",
                fontsize=9,
                color=_INK,
                ha="center",
                va="top",
                transform=axis.transAxes,
            )
    _save_images(figure, axes, path)


def _shrunk(frame: Frame) -> Frame:
    """A frame in RGB, reduced to the size of the plot."""
    scale = min(1.0, _SHOWN / max(frame.shape[:2]))
    height, width = (max(1, round(n * scale)) for n in frame.shape[:2])
    return stretched(frame, (height, width), cv2.INTER_AREA)[..., ::-1]


def _save_images(figure: Any, axes: Any, path: Path) -> None:
    for axis in axes.flat:
        axis.set_axis_off()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary, warnings.catch_warnings():
        # Names in scripts that the font lacks become boxes in a plot; one warning per letter helps nobody.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")
        figure.savefig(temporary, dpi=110)
