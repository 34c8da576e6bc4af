"""Plots: they come out for whatever is measured, and show what they are of."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from aselect_edge.evaluation.plots import Example, draw_confusion, draw_curve, draw_examples
from aselect_runtime.errors import WriteError
from aselect_runtime.records import ClassInfo

CLASSES = tuple(
    ClassInfo(name=name, colour=colour)
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255)))
)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, to be looked into."""
    drawn: list[Any] = []
    save = Figure.savefig

    def kept(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return drawn


@pytest.mark.parametrize(
    "module", ["aselect_edge.evaluation.plots", "aselect_edge.selection.plots", "aselect_calibration.plot"]
)
def test_a_notebook_keeps_its_own_backend(module: str) -> None:
    """A plot to a file neither loads pyplot nor chooses its backend, which would hide the plots of a notebook."""
    code = f"import sys, {module}; assert 'matplotlib.pyplot' not in sys.modules; import matplotlib.pyplot as plt; "
    code += "plt.figure(); assert plt.get_backend() == 'svg', plt.get_backend()"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "svg"})


def _texts(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_a_confusion_shows_shares_of_the_true_class(figures: list[Any], tmp_path: Path) -> None:
    draw_confusion(np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]]), CLASSES, tmp_path / "confusion.png")
    axis = figures[0].axes[0]
    assert _texts(axis) == ["75", "25", "25", "75"]  # nothing in the row of the class that is not there
    assert [label.get_text() for label in axis.get_yticklabels()] == ["red", "green", "blue"]
    assert "overall accuracy 75.0 %" in axis.get_title()
    assert cv2.imread(str(tmp_path / "confusion.png")) is not None


def test_a_dollar_in_a_name_is_a_dollar(figures: list[Any], tmp_path: Path) -> None:
    classes = [ClassInfo(name=name, colour=(0, 0, 0)) for name in ("$5_$10", "$100^$", "{$}$")]
    draw_confusion(np.eye(3, dtype=np.int64), classes, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    labels = [label.get_text() for label in figures[-1].axes[0].get_yticklabels()]
    assert [label.replace(r"\$", "$") for label in labels] == [info.name for info in classes]


def test_names_in_any_script_are_drawn_without_a_warning(figures: list[Any], tmp_path: Path) -> None:
    classes = [ClassInfo(name=name, colour=(0, 0, 0)) for name in ("道路", "سيارة", "🚗")]
    draw_confusion(np.eye(3, dtype=np.int64), classes, tmp_path / "confusion.png")  # pytest makes warnings errors
    assert [label.get_text() for label in figures[-1].axes[0].get_yticklabels()] == [info.name for info in classes]


def test_of_hundreds_of_classes_the_most_confused_are_shown(figures: list[Any], tmp_path: Path) -> None:
    classes = [ClassInfo(name=f"class {n}", colour=(n % 256, 0, 0)) for n in range(555)]
    matrix = 9 * np.eye(555, dtype=np.int64)
    matrix[500, 3], matrix[3, 500], matrix[77, 76] = 2, 1, 4
    path = tmp_path / "confusion.png"
    draw_confusion(matrix, classes, path)
    axis = figures[0].axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert "the 60 most confused of 555 classes" in axis.get_title()
    assert len(names) == 60
    assert {"class 3", "class 76", "class 77", "class 500"} < {*names}
    assert names == sorted(names, key=lambda name: int(name.split()[1]))
    assert axis.images[0].get_array()[names.index("class 77"), names.index("class 76")] == pytest.approx(100 * 4 / 13)
    image = cv2.imread(str(path))
    assert image is not None
    assert max(image.shape) < 2600


@pytest.mark.parametrize("count", [1, 2, 60])
def test_names_of_many_classes_do_not_overlap(figures: list[Any], tmp_path: Path, count: int) -> None:
    classes = [ClassInfo(name=f"{n:03d}.Black_footed_Albatross_of_the_west", colour=(n, n, n)) for n in range(count)]
    draw_confusion(np.eye(count, dtype=np.int64) * 7, classes, tmp_path / "confusion.png")
    figure = figures[0]
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(lower.y1 <= upper.y0 for upper, lower in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    assert all(label.get_window_extent().y0 >= 0 for label in figure.axes[0].get_xticklabels())
    assert max(box.y1 for box in boxes) <= figure.bbox.y1


def test_no_count_at_all_is_drawn(tmp_path: Path) -> None:
    draw_confusion(np.zeros((3, 3), np.int64), CLASSES, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_maps_have_the_colours_of_their_classes(figures: list[Any], tmp_path: Path) -> None:
    label = np.full((60, 80), 2, np.uint8)
    label[:, :40] = 255
    black = np.zeros((60, 80, 3), np.uint8)
    draw_examples([(black, label, np.zeros((60, 80), np.uint8))] * 2, CLASSES, tmp_path / "examples.png")
    figure = figures[0]
    assert [axis.get_title() for axis in figure.axes[:3]] == ["frame", "labelled", "predicted"]
    assert len(figure.axes) == 6
    labelled, predicted = (np.asarray(axis.images[0].get_array()) for axis in figure.axes[1:3])
    assert predicted[5, 5].argmax() == 0
    assert not predicted[5, 5, 1:].any()  # red, in RGB
    assert labelled[5, 79, 2] > labelled[5, 5, 2]  # blue to the right, no label to the left
    assert len(set(labelled[5, 5])) == 1
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    legend = dict(zip(names, figure.legends[0].get_patches(), strict=True))
    assert set(legend) == {"red", "blue", "no label"}  # and not green, which nothing shows
    assert to_rgb(legend["blue"].get_facecolor()) == (0, 0, 1)


def test_a_class_out_of_range_is_reported(figures: list[Any], tmp_path: Path) -> None:
    frame = np.zeros((500, 900, 3), np.uint8)
    frame[..., 0] = 200
    rows: list[Example] = [(frame, 0, 0), (frame[:30], 1, 2), (frame, 2, 2), (frame, 1, 1), (frame, 0, 1)]
    draw_examples(rows, CLASSES, tmp_path / "examples.png")
    axes = figures[0].axes
    assert [axis.get_title() for axis in axes] == ["red", "blue", "blue", "green", "green", "", "", ""]
    assert [_texts(axis) for axis in axes] == [[], ["is green"], [], [], ["is red"], [], [], []]
    shown = np.asarray(axes[0].images[0].get_array())
    assert max(shown.shape) <= 480
    assert shown[0, 0].tolist() == [0, 0, 200]  # RGB


def test_a_curve_shows_both_losses_and_what_the_figure_is_held_against(figures: list[Any], tmp_path: Path) -> None:
    rows = [(8, 2.0, 0.1, 2.5), (16, 1.0, 0.3, 1.5), (24, 0.5, 0.2, 1.75)]
    draw_curve(rows, ("loss", "val mIoU"), tmp_path / "curve.png", {"ImageNet encoder": 0.25})
    losses, val = figures[0].axes
    assert [axis.get_title() for axis in (losses, val)] == ["loss", "val mIoU"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert drawn == {"train": [[8, 2.0], [16, 1.0], [24, 0.5]], "val": [[8, 2.5], [16, 1.5], [24, 1.75]]}
    curve, *levels = val.lines
    assert curve.get_xydata().tolist() == [[8, 0.1], [16, 0.3], [24, 0.2]]
    assert [line.get_ydata()[0] for line in levels] == [0.3, 0.25]
    assert [text.get_text() for text in val.texts] == ["best 0.300", "ImageNet encoder 0.250"]


def test_an_image_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        draw_curve([(8, 2.0, 0.1, 2.5)], ("loss", "val mIoU"), tmp_path / "file" / "curve.png")
    assert plt.get_fignums() == []
