"""Augmentation: whatever is done to a frame is done to its labels."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge.data.augment import Augmentation, classified_view, erase, labelled_view, recolour
from aselect_runtime.frames import Frame, placement, resize, resize_label
from aselect_runtime.records import Resize

IGNORE = 255
GREYS = np.array([0, 90, 180, 250], np.uint8)  # the image shows its label as a grey value
NO_COLOUR = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)
HOW = st.builds(
    Resize, mode=st.sampled_from(["stretch", "letterbox"]), interpolation=st.sampled_from(["area", "linear"])
)
SIZE = st.tuples(st.integers(8, 64), st.integers(8, 64))
SMALL = st.tuples(st.integers(8, 32), st.integers(8, 32))
LARGE = st.tuples(st.integers(32, 64), st.integers(32, 64))


def _pair(seed: int, shape: tuple[int, int]) -> tuple[Frame, Frame]:
    """Large patches of four classes, and their image."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, (3, 3), np.uint8).repeat(-(-shape[0] // 3), 0).repeat(-(-shape[1] // 3), 1)
    label = np.ascontiguousarray(label[: shape[0], : shape[1]])
    return np.dstack([GREYS[label]] * 3), label


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), shape=SMALL, size=LARGE, how=HOW)  # shrinking may lose slivers of a label
def test_labels_stay_on_what_they_label(seed: int, shape: tuple[int, int], size: tuple[int, int], how: Resize) -> None:
    frame, label = _pair(seed, shape)
    view, labels = labelled_view(np.random.default_rng(seed), frame, label, size, how, IGNORE, NO_COLOUR)
    assert (view.shape, labels.shape) == ((*size, 3), size)
    assert view.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {*np.unique(label), IGNORE}
    # Interpolation and rounding blur at most the pixels beside a border between labels; look beyond those.
    reach = 1 + max(-(-size[0] // shape[0]), -(-size[1] // shape[1])) * 2
    padded = np.pad(labels, reach, mode="edge").astype(int)
    inner = np.ones(size, bool)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            inner &= padded[dy : dy + size[0], dx : dx + size[1]] == labels
    inner &= labels != IGNORE
    assert (np.abs(view[inner][:, 0].astype(int) - GREYS[labels[inner]]) <= 2).all()


@settings(max_examples=60, deadline=None)
@given(shape=SIZE, size=SIZE, how=HOW)
def test_a_label_lies_where_its_frame_lies(shape: tuple[int, int], size: tuple[int, int], how: Resize) -> None:
    labels = resize_label(np.full(shape, 2, np.uint8), size, how, IGNORE)
    top, left, height, width = placement(shape, size, how)
    expected = np.full(size, IGNORE, np.uint8)
    expected[top : top + height, left : left + width] = 2
    np.testing.assert_array_equal(labels, expected)


def test_half_of_the_views_are_whole_frames() -> None:
    frame, label = _pair(3, (40, 60))
    how, rng = Resize(), np.random.default_rng(0)
    whole = resize(frame, (20, 30), how)
    views = [labelled_view(rng, frame, label, (20, 30), how, IGNORE, NO_COLOUR)[0] for _ in range(200)]
    same = sum(any(np.abs(view.astype(int) - w).max() <= 2 for w in (whole, whole[:, ::-1])) for view in views)
    assert 70 < same < 130


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_colour_change_is_none(seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    grey = np.dstack([frame[..., 0]] * 3)
    np.testing.assert_array_equal(recolour(np.random.default_rng(seed), grey, NO_COLOUR), grey)


def test_views_repeat_with_the_generator_and_leave_the_frame_alone() -> None:
    frame, label = _pair(5, (30, 30))
    kept = frame.copy(), label.copy()
    first, again = (
        labelled_view(np.random.default_rng(7), frame, label, (16, 16), Resize(), IGNORE, Augmentation())
        for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(frame, kept[0])
    np.testing.assert_array_equal(label, kept[1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), size=SIZE, how=HOW)
def test_a_view_of_any_image_has_the_models_size(
    seed: int, shape: tuple[int, int], size: tuple[int, int], how: Resize
) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    view = classified_view(np.random.default_rng(seed), frame, size, how, Augmentation(erased=0.5))
    assert view.shape == (*size, 3)
    assert view.dtype == np.uint8
    labels = labelled_view(np.random.default_rng(seed), frame, frame[..., 0], size, how, IGNORE, Augmentation())[1]
    assert labels.shape == size


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.tuples(st.integers(8, 64), st.integers(8, 64)))
def test_a_small_rectangle_of_one_colour_is_erased(seed: int, shape: tuple[int, int]) -> None:
    frame = np.full((*shape, 3), (1, 2, 3), np.uint8)
    erased = erase(np.random.default_rng(seed), frame)
    rows, columns = np.nonzero((erased != frame).any(2))
    part = erased[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (part == part[0, 0]).all()
    assert 0 < part.size / frame.size < 0.35
    assert (frame == (1, 2, 3)).all()
