"""Views as pixels and as stored features: what is drawn is right, what is stored is what was computed."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aselect_edge.data import ClassificationData, SegmentationData, open_classification, open_segmentation
from aselect_edge.training.cache import FrozenFrames, FrozenViews
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.rows import Rows, stored_rows
from aselect_edge.training.views import ClassificationViews, SegmentationViews, data_digest, to_pixels
from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.frames import resize
from aselect_runtime.records import Resize

SIZE = (16, 24)
RECIPE = Recipe(batch=4, views=3, synthetic=0.0)
COLOURS = {"blue": (250, 20, 20), "green": (20, 250, 20), "red": (20, 20, 250)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> ClassificationData:
    """Two images of each of three colours, which are their classes."""
    root = tmp_path_factory.mktemp("colours")
    for split in ("train", "val"):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for n in range(2):
                cv2.imwrite(str(root / split / name / f"{n}.png"), np.full((30 + n, 20, 3), colour, np.uint8))
    return open_classification(root, "train")


@pytest.fixture
def streets(street_data: Path) -> SegmentationData:
    return open_segmentation(street_data, "train")


class Counting:
    """A backbone of two taps, means over patches of 8 and of 4 pixels, that counts the images it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        self.seen += len(pixels)
        pooled = (torch.nn.functional.avg_pool2d(pixels, side) for side in (8, 4))
        return tuple(each.permute(0, 2, 3, 1) for each in pooled)


def _silent(_what: str, _share: float) -> None:
    return None


def test_batches_are_pixels_and_labels(streets: SegmentationData, colours: ClassificationData) -> None:
    pixels, labels = SegmentationViews(streets, SIZE, Resize(), RECIPE).batch(np.random.default_rng(0))
    assert (pixels.shape, pixels.dtype) == ((4, 3, *SIZE), torch.float32)
    assert (labels.shape, labels.dtype) == ((4, *SIZE), torch.int64)
    pixels, classes = ClassificationViews(colours, SIZE, Resize(), RECIPE).batch(np.random.default_rng(0))
    assert (pixels.shape, pixels.dtype) == ((4, 3, *SIZE), torch.float32)
    assert (classes.shape, classes.dtype) == ((4,), torch.int64)
    assert pixels.max() > 200  # 0..255, not 0..1


def test_an_image_keeps_its_class(colours: ClassificationData) -> None:
    views = ClassificationViews(colours, SIZE, Resize(), RECIPE)
    views.augmentation = replace(views.augmentation, hue=0.0, erased=0.0)
    rng = np.random.default_rng(1)
    for _ in range(40):
        frame, label = views.view(rng)
        assert frame.mean((0, 1)).argmax() == label  # blue, green, red: the order of BGR


def test_views_of_a_seed_do_not_depend_on_what_was_drawn_before(streets: SegmentationData) -> None:
    recipe = replace(RECIPE, synthetic=0.5)
    fresh, used = (SegmentationViews(streets, SIZE, Resize(), recipe) for _ in range(2))
    for seed in range(5):
        used.view(np.random.default_rng(seed))
    for seed in range(10, 16):
        for a, b in zip(*(v.view(np.random.default_rng(seed)) for v in (fresh, used)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_views_that_differ_describe_themselves_differently(
    streets: SegmentationData,
) -> None:
    described = {
        SegmentationViews(streets, SIZE, Resize(), RECIPE).describe(),
        SegmentationViews(streets, (24, 24), Resize(), RECIPE).describe(),
        SegmentationViews(streets, SIZE, Resize(mode="letterbox"), RECIPE).describe(),
        SegmentationViews(streets, SIZE, Resize(), replace(RECIPE, seed=1)).describe(),
        SegmentationViews(streets, SIZE, Resize(), replace(RECIPE, synthetic=0.5)).describe(),
    }
    assert len(described) == 5
    assert SegmentationViews(streets, SIZE, Resize(), replace(RECIPE, learning_rate=1.0)).describe() in described


def test_a_changed_file_is_other_data(colours: ClassificationData, tmp_path: Path) -> None:
    copy = replace(colours, paths=tuple(tmp_path / path.parent.name / path.name for path in colours.paths))
    with pytest.raises(InputError, match=r"0\.png: unreadable .* expected"):
        data_digest(copy)
    for path, original in zip(copy.paths, colours.paths, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(original.read_bytes())
    assert data_digest(copy) == data_digest(colours)  # wherever it lies
    assert data_digest(copy) != data_digest(replace(copy, labels=copy.labels[::-1]))
    copy.paths[3].write_bytes(copy.paths[0].read_bytes())
    assert data_digest(copy) != data_digest(colours)


def test_stored_features_are_those_of_the_views(streets: SegmentationData, tmp_path: Path) -> None:
    views, backbone = SegmentationViews(streets, SIZE, Resize(), RECIPE), Counting()
    frozen = FrozenViews(views, backbone, "key", tmp_path, _silent)
    assert len(frozen) == backbone.seen == 3 * len(streets)
    maps, labels = frozen.batch(np.random.default_rng(0))
    assert [each.shape for each in maps] == [(4, 2, 3, 3), (4, 4, 6, 3)]
    assert {each.dtype for each in maps} == {torch.float32}
    assert (labels.shape, labels.dtype) == ((4, *SIZE), torch.int64)
    row = int(np.flatnonzero((frozen.labels == labels[0].numpy()).all((1, 2)))[0])
    order = np.random.default_rng((RECIPE.seed, 1)).permutation(len(streets))
    frame, label = views.view(np.random.default_rng((RECIPE.seed, 1, row)), int(order[row % len(order)]))
    np.testing.assert_array_equal(labels[0], label)
    for stored, computed in zip(maps, backbone(to_pixels(frame[None])), strict=True):
        torch.testing.assert_close(stored[0], computed[0], rtol=1e-3, atol=0.1)


def test_stored_classes_come_back(colours: ClassificationData, tmp_path: Path) -> None:
    frozen = FrozenViews(ClassificationViews(colours, SIZE, Resize(), RECIPE), Counting(), "key", tmp_path, _silent)
    _, labels = frozen.batch(np.random.default_rng(0))
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)
    assert np.bincount(frozen.labels).tolist() == [6, 6, 6]  # every image as often as any other


@pytest.mark.parametrize("library", ["torch", "cv2"])
def test_features_of_another_version_are_computed_again(
    library: str, streets: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed() -> int:
        backbone = Counting()
        FrozenViews(SegmentationViews(streets, SIZE, Resize(), RECIPE), backbone, "key", tmp_path, _silent)
        return backbone.seen

    monkeypatch.setattr(f"{library}.__version__", "2.0.0+cpu")
    assert (computed(), computed()) == (18, 0)
    monkeypatch.setattr(f"{library}.__version__", "2.0.0+cu130")
    assert computed() == 0
    monkeypatch.setattr(f"{library}.__version__", "2.0.1")
    assert computed() == 18


def test_a_later_run_computes_nothing_and_another_everything(streets: SegmentationData, tmp_path: Path) -> None:
    def run(key: str, recipe: Recipe = RECIPE) -> tuple[int, tuple[tuple[Tensor, ...], Tensor]]:
        backbone = Counting()
        views = SegmentationViews(streets, SIZE, Resize(), recipe)
        frozen = FrozenViews(views, backbone, key, tmp_path, _silent)
        return backbone.seen, frozen.batch(np.random.default_rng(0))

    seen, first = run("a")
    again, second = run("a", replace(RECIPE, learning_rate=1.0))
    assert (seen, again) == (18, 0)
    for x, y in zip((*first[0], first[1]), (*second[0], second[1]), strict=True):
        assert torch.equal(x, y)
    assert run("b")[0] == 18
    assert run("a")[0] == 18  # what was there of it is gone
    assert run("a", replace(RECIPE, seed=1))[0] == 18
    assert run("a", replace(RECIPE, seed=1, views=2))[0] == 12


def test_bytes_are_bounded_and_what_fits_is_a_fair_sample(colours: ClassificationData, tmp_path: Path) -> None:
    recipe = replace(RECIPE, cache_bytes=1300, views=50)  # a row takes 36 + 144 + 8 bytes
    frozen = FrozenViews(ClassificationViews(colours, SIZE, Resize(), recipe), Counting(), "key", tmp_path, _silent)
    assert len(frozen) == 6
    assert np.bincount(frozen.labels).tolist() == [2, 2, 2]


def test_huge_activations_stay_finite(colours: ClassificationData, tmp_path: Path) -> None:
    views = ClassificationViews(colours, SIZE, Resize(), RECIPE)
    frozen = FrozenViews(views, lambda x: (x.permute(0, 2, 3, 1) * 1e6 - 1e7,), "key", tmp_path, _silent)
    assert all(torch.isfinite(each).all() for each in frozen.batch(np.random.default_rng(0))[0])


@pytest.mark.parametrize("cache_bytes", [10**9, 1])
def test_whole_frames_pass_the_backbone_once(streets: SegmentationData, tmp_path: Path, cache_bytes: int) -> None:
    backbone = Counting()
    frozen = FrozenFrames(streets, SIZE, Resize(), backbone, "key", tmp_path, _silent, cache_bytes)
    backbone.seen = 0
    for _ in range(2):
        for expected, (maps, label, index) in enumerate(frozen):
            frame, own = streets.read(index)
            assert index == expected
            np.testing.assert_array_equal(np.asarray(label), own)
            computed = Counting()(to_pixels(resize(frame, SIZE, Resize())[None]))
            assert [each.dtype for each in maps] == [torch.float32] * 2
            torch.testing.assert_close(maps, computed, rtol=1e-3, atol=0.1)
    assert backbone.seen == (0 if cache_bytes > 1 else 2 * (len(streets) - 1))


def test_whole_images_have_their_classes(colours: ClassificationData, tmp_path: Path) -> None:
    frozen = FrozenFrames(colours, SIZE, Resize(), Counting(), "key", tmp_path, _silent)
    assert [label for _, label, _ in frozen] == list(colours.labels)


def _squares(part: range) -> Rows:
    numbers = np.array(part, np.int64)
    return {"squares": numbers**2, "pairs": np.stack([numbers, -numbers], 1).astype(np.float16)}


Compute = Callable[[range], Rows]


def _store(folder: Path, compute: Compute = _squares, key: str = "key", wanted: int = 10, limit: int = 10**6) -> Rows:
    return stored_rows(folder, key, wanted=wanted, limit=limit, chunk=3, compute=compute)


def _check(rows: Rows, count: int = 10) -> None:
    for name, expected in _squares(range(count)).items():
        np.testing.assert_array_equal(rows[name], expected)
        assert rows[name].dtype == expected.dtype


def _recorder(parts: list[range], killed_at: int | None = None) -> Compute:
    def compute(part: range) -> Rows:
        if part.start == killed_at:
            raise KeyboardInterrupt
        parts.append(part)
        return _squares(part)

    return compute


@settings(max_examples=25, deadline=None)
@given(wanted=st.integers(1, 12), limit=st.integers(0, 150), chunk=st.integers(1, 5))
def test_rows_are_all_or_as_many_as_fit(
    tmp_path_factory: pytest.TempPathFactory, wanted: int, limit: int, chunk: int
) -> None:
    rows = stored_rows(
        tmp_path_factory.mktemp("rows"), "key", wanted=wanted, limit=limit, chunk=chunk, compute=_squares
    )
    _check(rows, min(wanted, max(1, limit // 12)))


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _store(tmp_path, _recorder([], killed_at=6))
    with (tmp_path / "squares.npy").open("ab") as stream:
        stream.write(b"half a row")  # killed between the array and the index
    parts: list[range] = []
    _check(_store(tmp_path, _recorder(parts)))
    assert parts == [range(6, 9), range(9, 10)]
    np.testing.assert_array_equal(np.load(tmp_path / "squares.npy"), np.arange(10) ** 2)


def _damage(folder: Path, how: str) -> None:
    path = folder / "squares.npy"
    content = bytearray(path.read_bytes())
    if how == "short":
        path.write_bytes(content[:-1])
    elif how == "bit":
        content[-3] ^= 4
        path.write_bytes(content)
    elif how == "gone":
        path.unlink()
    elif how == "index":
        (folder / "index.json").write_text("{")
    else:  # an index that points out of its folder
        index = json.loads((folder / "index.json").read_text())
        index["files"]["../squares"] = index["files"].pop("squares")
        (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("how", ["short", "bit", "gone", "index", "outside"])
def test_what_is_damaged_is_computed_again(tmp_path: Path, how: str) -> None:
    _store(tmp_path)
    _damage(tmp_path, how)
    parts: list[range] = []
    _check(_store(tmp_path, _recorder(parts)))
    assert sum(map(len, parts)) == 10


def test_rows_in_use_survive_another_key(tmp_path: Path) -> None:
    used = _store(tmp_path)
    _store(tmp_path, lambda part: {"squares": np.zeros((len(part), 50))}, key="another")
    _check(used)
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["squares.npy"]


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=10))
        with pytest.raises(WriteError, match=r"got 0\.00 MB free, expected \d+\.\d\d MB for 10 rows"):
            _store(tmp_path)

    def full(part: range) -> Rows:
        if part.start == 6:
            raise OSError(errno.ENOSPC, "from the computation itself, not of the folder")
        return _squares(part)

    with pytest.raises(OSError, match="computation"):
        _store(tmp_path, full)
    _check(_store(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_is_reported(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _store(tmp_path, _recorder([], killed_at=6))

    def filling(part: range) -> Rows:
        (tmp_path / "squares.npy").unlink()
        (tmp_path / "squares.npy").symlink_to("/dev/full")
        return _squares(part)

    with pytest.raises(WriteError, match="could not write the features"):
        _store(tmp_path, filling)


def test_two_at_once_leave_one_right_result(tmp_path: Path) -> None:
    parts: list[range] = []
    with ThreadPoolExecutor(2) as pool:  # the lock belongs to an open file, so it holds between threads as well
        for rows in pool.map(lambda _: _store(tmp_path, _recorder(parts)), range(2)):
            _check(rows)
    assert sum(map(len, parts)) == 10
