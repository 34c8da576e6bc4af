"""The procedural street: exact, repeatable, in motion, and with every class of CamVid in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_runtime.errors import InputError
from aselect_runtime.scenes import CLASSES, COLOURS, Street, sample

SKY, BUILDING, ROAD, PAVEMENT = (CLASSES.index(name) for name in ("Sky", "Building", "Road", "Pavement"))


def test_classes_and_colours_are_camvids_eleven() -> None:
    assert len(CLASSES) == len(COLOURS) == len(set(COLOURS)) == 11
    assert dict(zip(CLASSES, COLOURS, strict=True))["Road"] == (128, 64, 128)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    index=st.integers(0, 10**6),
    height=st.integers(16, 96),
    width=st.integers(16, 128),
)
def test_any_size_seed_and_moment_gives_image_and_labels(seed: int, index: int, height: int, width: int) -> None:
    image, labels = Street(seed, height, width).frame(index)
    assert image.shape == (height, width, 3)
    assert labels.shape == (height, width)
    assert image.dtype == labels.dtype == np.uint8
    assert labels.max() < len(CLASSES)


@settings(max_examples=5, deadline=None)
@given(order=st.permutations([0, 3, 40, 41]))
def test_frames_do_not_depend_on_the_order_they_are_asked_for(order: list[int]) -> None:
    street = Street(seed=5, height=72, width=96)
    expected = {index: street.frame(index) for index in sorted(order)}
    for index in order:
        image, labels = Street(seed=5, height=72, width=96).frame(index)
        np.testing.assert_array_equal(image, expected[index][0])
        np.testing.assert_array_equal(labels, expected[index][1])


def test_a_caller_may_draw_on_a_frame_without_spoiling_the_next() -> None:
    street = Street(seed=2, height=72, width=96)
    image, labels = street.frame(7)
    kept = image.copy(), labels.copy()
    image[:], labels[:] = 0, 0
    np.testing.assert_array_equal(street.frame(7)[0], kept[0])
    np.testing.assert_array_equal(street.frame(7)[1], kept[1])


def test_seeds_give_different_streets() -> None:
    images = {Street(seed, 48, 64).frame(0)[0].tobytes() for seed in range(6)}
    assert len(images) == 6


@pytest.mark.parametrize("seed", range(4))
def test_the_street_moves_little_by_little(seed: int) -> None:
    street = Street(seed, 120, 160)
    (image, labels), (next_image, next_labels), (_, later) = (street.frame(i) for i in (30, 31, 130))
    assert (image != next_image).any()
    assert (labels != next_labels).any()
    near = (labels == next_labels).mean()
    assert near > 0.9
    assert near > (labels == later).mean()


def test_frame_rate_changes_the_step_and_not_the_drive() -> None:
    slow, fast = Street(3, 72, 96, fps=10.0), Street(3, 72, 96, fps=20.0)
    np.testing.assert_array_equal(slow.frame(5)[1], fast.frame(10)[1])


def test_labels_lie_where_the_image_shows_them() -> None:
    """Sky is brighter than road wherever the labels say so."""
    for seed in range(4):
        image, labels = Street(seed, 120, 160).frame(0)
        sky, road = image[labels == SKY], image[labels == ROAD]
        if len(sky):
            assert sky.mean() > road.mean()


def test_every_class_appears_and_the_layout_is_a_streets() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(len(CLASSES))
    top, bottom = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for _ in range(25):
        _, labels = sample(rng, 120, 160)
        counts += np.bincount(labels.ravel(), minlength=len(CLASSES))
        top += np.bincount(labels[:30].ravel(), minlength=len(CLASSES))
        bottom += np.bincount(labels[-30:].ravel(), minlength=len(CLASSES))
    share = counts / counts.sum()
    assert (share > 0.0005).all(), dict(zip(CLASSES, share.round(4), strict=True))
    assert share[ROAD] == max(share)
    assert share[[SKY, BUILDING, ROAD]].sum() > 0.5
    assert bottom.argmax() == ROAD
    assert top[ROAD] == top[PAVEMENT] == bottom[SKY] == 0


def test_samples_repeat_with_the_generator() -> None:
    first, again = (sample(np.random.default_rng(11), 48, 64) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0},
        {"width": 15},
        {"height": 4097},
        {"width": -3},
        {"seed": -1},
        {"fps": 0.0},
        {"fps": float("nan")},
    ],
)
def test_bad_streets_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Street(**wrong)  # type: ignore[arg-type]


def test_a_negative_frame_is_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        Street(height=48, width=64).frame(-1)
