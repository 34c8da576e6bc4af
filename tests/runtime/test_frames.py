"""Frames: one resize for all, its way back, and images that cannot be read."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_runtime.complete import is_cut
from aselect_runtime.errors import InputError
from aselect_runtime.frames import PAD, placement, read_image, resize, resize_label, restore
from aselect_runtime.records import Resize

SIDE = st.integers(1, 70)
SIZE = st.tuples(SIDE, SIDE)
HOW = st.builds(
    Resize, mode=st.sampled_from(["stretch", "letterbox"]), interpolation=st.sampled_from(["area", "linear"])
)
LETTERBOX = Resize(mode="letterbox")


@settings(max_examples=60, deadline=None)
@given(shape=SIZE, size=SIZE, how=HOW, value=st.integers(0, 255))
def test_a_frame_fills_its_place_and_grey_the_rest(
    shape: tuple[int, int], size: tuple[int, int], how: Resize, value: int
) -> None:
    got = resize(np.full((*shape, 3), value, np.uint8), size, how)
    assert got.shape == (*size, 3)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    top, left, height, width = placement(shape, size, how)
    expected = np.full((*size, 3), PAD, np.uint8)
    expected[top : top + height, left : left + width] = value
    np.testing.assert_array_equal(got, expected)


@given(shape=SIZE, size=SIZE)
def test_stretch_fills_everything(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert placement(shape, size, Resize()) == (0, 0, *size)


@given(shape=SIZE, size=SIZE)
def test_letterbox_keeps_the_aspect_and_centres(shape: tuple[int, int], size: tuple[int, int]) -> None:
    top, left, height, width = placement(shape, size, LETTERBOX)
    assert height == size[0] or width == size[1]
    scale = min(size[0] / shape[0], size[1] / shape[1])
    assert abs(height - max(1, shape[0] * scale)) <= 0.5 + 1e-9
    assert abs(width - max(1, shape[1] * scale)) <= 0.5 + 1e-9
    assert 0 <= size[0] - height - 2 * top <= 1
    assert 0 <= size[1] - width - 2 * left <= 1


@given(shape=SIZE, how=HOW)
def test_the_right_size_already_changes_nothing(shape: tuple[int, int], how: Resize) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(resize(frame, shape, how), frame)


@settings(max_examples=60, deadline=None)
@given(shape=SIZE, size=SIZE, how=HOW)
def test_a_class_map_comes_back_in_the_frames_size(shape: tuple[int, int], size: tuple[int, int], how: Resize) -> None:
    class_map = np.full(size, 9, np.uint8)
    top, left, height, width = placement(shape, size, how)
    class_map[top : top + height, left : left + width] = 4
    got = restore(class_map, shape, how)
    np.testing.assert_array_equal(got, np.full(shape, 4, np.uint8))  # and nothing of the borders


@settings(max_examples=30, deadline=None)
@given(shape=SIZE, factor=st.integers(1, 3), how=HOW)
def test_an_enlarged_class_map_comes_back_exactly(shape: tuple[int, int], factor: int, how: Resize) -> None:
    labels = np.random.default_rng(1).integers(0, 9, shape, np.uint8)
    enlarged = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(restore(enlarged, shape, how), labels)


def _is_nearest(values: np.ndarray[Any, Any], had: int) -> None:
    """Every value of a map's rows, whose values are their indices of `had`, is the row with the nearest centre."""
    count = len(values)
    centres = (np.arange(count) + 0.5) * had / count
    assert (np.abs(values + 0.5 - centres[:, None]) <= 0.5 + 1e-5).all()


@settings(max_examples=60, deadline=None)
@given(shape=SIZE, size=SIZE, how=HOW)
def test_class_maps_lie_on_their_frames(shape: tuple[int, int], size: tuple[int, int], how: Resize) -> None:
    """To half a pixel in both directions: a map that is moved teaches, and answers, the wrong edges."""
    top, left, height, width = placement(shape, size, how)
    down = np.broadcast_to(np.arange(shape[0], dtype=np.uint8)[:, None], shape)
    inner = resize_label(np.ascontiguousarray(down), size, how, 255)[top : top + height, left : left + width]
    _is_nearest(inner.astype(int), shape[0])
    across = np.broadcast_to(np.arange(shape[1], dtype=np.uint8)[None, :], shape)
    inner = resize_label(np.ascontiguousarray(across), size, how, 255)[top : top + height, left : left + width]
    _is_nearest(inner.T.astype(int), shape[1])
    numbered = np.zeros(size, np.uint8)
    numbered[top : top + height] = np.arange(height, dtype=np.uint8)[:, None]
    _is_nearest(restore(numbered, shape, how).astype(int), height)


def test_images_of_every_kind_become_bgr(tmp_path: Path) -> None:
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[..., 0] = 200
    kinds: dict[str, np.ndarray[Any, Any]] = {
        "colour.png": colour,
        "alpha.png": np.dstack([colour, np.full((4, 5), 255, np.uint8)]),
        "grey.png": colour[..., 0],
        "deep.png": colour.astype(np.uint16) * 257,
    }
    for name, image in kinds.items():
        cv2.imwrite(str(tmp_path / name), image)
        frame = read_image(tmp_path / name)
        assert frame.shape == (4, 5, 3)
        assert frame.dtype == np.uint8
        assert frame[0, 0, 0] == 200
        assert frame[0, 0, 2] == (200 if name == "grey.png" else 0)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    return bytes(cv2.imencode(".png", noise)[1].tobytes())


BOMB = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
BOMB += _chunk(b"IDAT", zlib.compress(bytes(100))) + _chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [b"", b"text", _png()[:20], _png()[:1000], b"\xff\xd8\xff\xe0junk", BOMB],
    ids=["empty", "text", "header", "truncated", "jpeg", "bomb"],
)
def test_damaged_images_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.png: got {len(content)} bytes that do not decode"):
        read_image(path)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=200), place=st.integers(0, 200))
def test_any_bytes_are_an_image_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, place: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(_png()[:place] + content)
    with contextlib.suppress(InputError):
        assert read_image(path).ndim == 3


def test_missing_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: unreadable"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="unreadable"):
        read_image(tmp_path)


WHOLE = {
    suffix: cv2.imencode(suffix, np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))[1].tobytes()
    for suffix in (".jpg", ".png")
}


@given(suffix=st.sampled_from(sorted(WHOLE)), share=st.floats(0.02, 1, exclude_max=True), after=st.binary(max_size=40))
def test_an_image_without_its_end_is_cut_and_bytes_behind_the_end_do_not_matter(
    suffix: str, share: float, after: bytes
) -> None:
    whole = WHOLE[suffix]
    assert is_cut(whole[: min(int(share * len(whole)), len(whole) - 8)])
    assert not is_cut(whole + after)


def test_the_end_of_a_thumbnail_is_not_that_of_its_image() -> None:
    whole = WHOLE[".jpg"]
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(whole) + 2) + whole
    image = whole[:2] + thumbnail + whole[2:]
    assert not is_cut(image)
    assert is_cut(image[: -len(whole) // 2])
