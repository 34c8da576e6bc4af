"""Plots of training and of measurements; PNG through matplotlib."""

from __future__ import annotations

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

from aselect_edge.evaluation.figure import ACCENT, FAINT, INK, save, save_images, shrunk
from aselect_runtime.frames import NEAREST, Frame
from aselect_runtime.records import ClassInfo

_UNLABELLED = (40, 40, 40)
"""RGB of pixels that have no class."""
_MOST_CLASSES = 60
"""Maximum number of classes in a confusion plot, so that it stays readable."""


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
    left.plot(samples, train, color=INK, label="train")
    if np.isfinite(val).any():
        left.plot(samples, val, color=ACCENT, label="val")
    left.legend(frameon=False)
    left.set(xlabel="samples", title=titles[0])
    right.plot(samples, figures, color=INK)
    for name, level in {"best": figures.max(), **targets}.items():
        right.axhline(level, color=ACCENT if name == "best" else INK, linestyle="--", linewidth=1)
        label = f"{name} {level:.3f}"
        right.annotate(label, (samples[0], level), (0, 3), textcoords="offset points", fontsize=8)
    right.set(xlabel="samples", title=titles[1])
    save(figure, path)


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
    colours = colormaps["Blues"].with_extremes(bad=FAINT)
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
        ink = "white" if share > 55 else INK
        axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=font - 1, color=ink)
    bar = figure.colorbar(image, shrink=0.6, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=font)
    save(figure, path)


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
        image = shrunk(frame)
        line[0].imshow(image)
        for axis, given in zip(line[1:], (label, prediction), strict=True):
            classmap = cv2.resize(np.asarray(given), image.shape[1::-1], interpolation=NEAREST)
            axis.imshow((0.3 * image + 0.7 * palette[classmap]).astype(np.uint8))
            seen.update(np.unique(classmap).tolist())
    for axis, title in zip(axes[0], ("frame", "labelled", "predicted"), strict=True):
        axis.set_title(title, color=INK)
    names = [(info.name, info.colour) for n, info in enumerate(classes) if n in seen]
    if any(n >= len(classes) for n in seen):
        names.append(("no label", _UNLABELLED))
    patches = [Patch(color="#{:02x}{:02x}{:02x}".format(*colour), label=_short(name)) for name, colour in names]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), frameon=False)
    save_images(figure, path)


def _draw_classes(rows: Sequence[Example], classes: Sequence[ClassInfo], path: Path) -> None:
    columns = max(1, min(4, len(rows)))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3 * columns, 3.1 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, (frame, label, prediction) in zip(axes.flat, rows, strict=False):
        right = label == prediction
        axis.imshow(shrunk(frame))
        said = _short(classes[int(prediction)].name)
        axis.set_title(said, fontsize=10, color=INK if right else ACCENT)
        if not right:
            axis.text(
                0.5,
                -0.03,
                f"is {_short(classes[int(label)].name)}",
                fontsize=9,
                color=INK,
                ha="center",
                va="top",
                transform=axis.transAxes,
            )
    save_images(figure, path)
