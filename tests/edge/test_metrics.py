"""Segmentation figures against counting pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge.evaluation.metrics import Confusion

IGNORE = 255
PIXELS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 3, IGNORE])), min_size=1, max_size=30)


def _naive_iou(pixels: list[tuple[int, int]], of: int) -> float:
    known = [(p, t) for p, t in pixels if t != IGNORE]
    union = sum(p == of or t == of for p, t in known)
    return sum(p == t == of for p, t in known) / union if union else math.nan


def _confusion(parts: list[list[tuple[int, int]]]) -> Confusion:
    confusion = Confusion(4, IGNORE)
    for part in parts:
        prediction, target = np.array(part, np.uint8).reshape(-1, 2).T
        confusion.update(prediction[None], target[None])
    return confusion


@settings(deadline=None)  # the first one imports torch
@given(pixels=PIXELS, cut=st.integers(0, 30))
def test_figures_equal_counting(pixels: list[tuple[int, int]], cut: int) -> None:
    confusion = _confusion([part for part in (pixels[:cut], pixels[cut:]) if part])
    expected = [_naive_iou(pixels, of) for of in range(4)]
    np.testing.assert_allclose(confusion.iou(), expected, rtol=1e-6)
    seen = [value for value in expected if not math.isnan(value)]
    assert confusion.miou() == pytest.approx(sum(seen) / len(seen) if seen else 0.0, rel=1e-6)
    known = [(p, t) for p, t in pixels if t != IGNORE]
    assert confusion.accuracy() == pytest.approx(sum(p == t for p, t in known) / len(known) if known else 0.0)
    found = [[p == t for p, t in known if t == of] for of in range(4)]
    shares = [sum(right) / len(right) for right in found if right]
    assert confusion.mean_accuracy() == pytest.approx(sum(shares) / len(shares) if shares else 0.0)


def test_rows_are_truth_and_columns_are_predictions() -> None:
    confusion = _confusion([[(1, 0), (1, 0), (2, 3)]])
    assert confusion.matrix[0, 1] == 2
    assert confusion.matrix[3, 2] == 1
    assert confusion.matrix.sum() == 3


def test_one_class_has_one_figure() -> None:
    confusion = Confusion(1, IGNORE)
    confusion.update(np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8))
    assert confusion.iou().tolist() == [1.0]


def test_nothing_counted_is_zero_and_not_nan() -> None:
    confusion = Confusion(4, IGNORE)
    confusion.update(np.zeros((2, 2), np.uint8), np.full((2, 2), IGNORE, np.uint8))
    assert (confusion.miou(), confusion.accuracy(), confusion.mean_accuracy()) == (0.0, 0.0, 0.0)
    assert np.isnan(confusion.iou()).all()
