"""Calibration's parts by themselves: frames, histograms, thresholds, rounding, the search for layers to give back."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import aselect_calibration
import aselect_runtime
from aselect_calibration.cache import cached
from aselect_calibration.frames import calibration_frames
from aselect_calibration.histogram import BINS, Histogram
from aselect_calibration.layers import Layer
from aselect_calibration.ranges import Range, Ranges
from aselect_calibration.rounding import round_activation, round_weight, weight_levels, weight_scales
from aselect_calibration.sensitivity import give_back
from aselect_calibration.smoothing import factors
from aselect_calibration.thresholds import METHODS, Method, entropy, minmax, mse, percentile, threshold
from aselect_edge.data import images_of
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.records import DataFingerprint, Resize
from aselect_runtime.scenes import Street
from tests.edge.layouts import Make, cvat, flat_masks, voc
from tests.edge.layouts.cases import tree

SIZE = (24, 32)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:03d}.png"), Street(0, 48, 64).frame(40 * index)[0])
    return folder


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def moments(count: int, repeated: int = 1) -> list[NDArray[np.uint8]]:
    return [Street(0, 48, 64).frame(40 * index)[0] for index in range(count) for _ in range(repeated)]


# frames

lower_splits = tree("train", "val", "test", images="images/{}", masks="masks/{}")


def test_frames_are_spread_over_a_folder_and_can_be_read_twice(tmp_path: Path) -> None:
    frames = calibration_frames(write_images(tmp_path / "images", 8), 4, SIZE, Resize())
    first, second = list(frames), list(frames)
    assert len(frames) == len(first) == 4
    np.testing.assert_array_equal(first, second)
    expected = cv2.resize(moments(8)[2], SIZE[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(first[1], expected)


def test_of_a_split_root_the_training_images_are_taken(street_data: Path) -> None:
    assert len(list(calibration_frames(street_data, 6, SIZE, Resize()))) == 6
    with pytest.raises(InputError, match=r"got 6 images, expected 7; add more or calibrate on 6"):
        calibration_frames(street_data, 7, SIZE, Resize())


def test_fewer_images_than_asked_for_serve_with_a_note(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 21)
    frames = calibration_frames(folder, 128, SIZE, Resize())
    assert len(frames) == len(list(frames)) == frames.fingerprint.images == 21
    assert frames.note == f"{folder}: got 21 images, 128 requested; calibrated on 21"
    assert len({name for name, _ in frames.read()}) == 21
    whole = calibration_frames(folder, 128, SIZE, Resize(), batch=4)
    assert (len(whole), len(list(whole))) == (20, 20)  # a graph of four frames takes four at a time
    assert calibration_frames(folder, 18, SIZE, Resize(), batch=4).note == ""  # rounded up to 20, which there are
    with pytest.raises(InputError, match=r"got 6 images, expected 128, or at least 16; add more or calibrate on 6"):
        calibration_frames(write_images(tmp_path / "few", 6), 128, SIZE, Resize())


@pytest.mark.parametrize(("batch", "advised"), [(1, 14), (5, 10), (14, 14), (15, None), (64, None)])
def test_the_number_that_an_error_advises_calibrates(tmp_path: Path, batch: int, advised: int | None) -> None:
    folder = write_images(tmp_path / "images", 14)
    with pytest.raises(InputError, match="got 14 images") as refused:
        calibration_frames(folder, 128, SIZE, Resize(), batch)
    told = re.search(r"calibrate on (\d+)$", str(refused.value))
    assert (told and int(told[1])) == advised
    if advised is None:
        assert str(refused.value).endswith("add more or take a smaller batch")
    else:
        assert len(calibration_frames(folder, advised, SIZE, Resize(), batch)) == advised


@pytest.mark.parametrize("make", [voc, cvat, flat_masks, lower_splits])
def test_masks_and_held_out_images_never_calibrate(tmp_path: Path, make: Make) -> None:
    make(tmp_path)
    held = {split: {str(path) for path in images_of(tmp_path, (split,))} for split in ("train", "val")}
    count = len(held["train"])
    frames = calibration_frames(tmp_path, count, SIZE, Resize())
    names = {name for name, _ in frames.read()}
    assert names == held["train"]
    assert not names & held["val"]
    assert not any(part in name for name in names for part in ("/masks/", "/SegmentationClass/", "/test/"))
    more = calibration_frames(tmp_path, count + 1, SIZE, Resize()) if count >= 16 else frames
    assert {name for name, _ in more.read()} == held["train"]  # those held out never fill up what is missing


def test_near_duplicates_of_a_video_are_dropped(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", moments(5, repeated=4))
    frames = list(calibration_frames(video, 5, SIZE, Resize()))
    assert len(frames) == 5
    assert all((a != b).mean() > 0.2 for a, b in itertools.pairwise(frames))
    with pytest.raises(InputError, match="got 5 frames that differ, expected 6"):
        calibration_frames(video, 6, SIZE, Resize())


def test_the_fingerprint_follows_how_frames_are_resized(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 3)
    seen = [(SIZE, Resize()), ((SIZE[0] * 2, SIZE[1]), Resize()), (SIZE, Resize(mode="letterbox"))]
    assert len({calibration_frames(folder, 3, size, how).fingerprint.sha256 for size, how in seen}) == 3


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 3)
    before = calibration_frames(folder, 3, SIZE, Resize()).fingerprint
    assert calibration_frames(folder, 3, SIZE, Resize()).fingerprint == before
    cv2.imwrite(str(folder / "001.png"), 255 - moments(2)[1])
    assert calibration_frames(folder, 3, SIZE, Resize()).fingerprint != before


def test_a_constant_frame_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 3)
    cv2.imwrite(str(folder / "001.png"), np.full((48, 64, 3), 7, np.uint8))
    with pytest.raises(InputError, match=r"001\.png: got an image of a single colour"):
        list(calibration_frames(folder, 3, SIZE, Resize()))


def test_a_constant_image_is_named_inside_the_borders_of_a_letterbox_too(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 2)
    cv2.imwrite(str(folder / "001.png"), np.full((64, 48, 3), 7, np.uint8))  # upright: borders left and right
    with pytest.raises(InputError, match=r"001\.png: got an image of a single colour"):
        list(calibration_frames(folder, 2, SIZE, Resize(mode="letterbox")))


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_a_video_that_begins_in_black_calibrates_without_it(tmp_path: Path, mode: str) -> None:
    black = np.zeros((64, 48, 3), np.uint8)
    upright = [np.ascontiguousarray(frame.transpose(1, 0, 2)) for frame in moments(3)]
    video = write_video(tmp_path / "video.mp4", [black, *upright, black])
    names = [name for name, _ in calibration_frames(video, 3, SIZE, Resize(mode=mode)).read()]  # type: ignore[arg-type]
    assert names == [f"{video}, frame {index}" for index in (1, 2, 3)]


@pytest.mark.parametrize(("count", "match"), [(0, "at least 1"), (2, "got a file")])
def test_data_that_cannot_calibrate_is_refused(tmp_path: Path, count: int, match: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no image")
    with pytest.raises(InputError, match=match):
        calibration_frames(path, count, SIZE, Resize())


# histograms

values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50)


@given(st.lists(values, min_size=1, max_size=5))
def test_a_histogram_does_not_depend_on_how_the_values_arrive(parts: list[list[float]]) -> None:
    streamed = Histogram()
    for part in parts:
        streamed = streamed.added(np.array(part, np.float32))
    once = Histogram().added(np.concatenate([np.array(part, np.float32) for part in parts]))
    assert (streamed.limit, streamed.largest) == (once.limit, once.largest)
    np.testing.assert_array_equal(streamed.counts, once.counts)
    assert streamed.counts.sum() == sum(map(len, parts))
    assert streamed.largest <= streamed.limit


def test_growing_by_more_than_all_bins_keeps_every_value() -> None:
    histogram = Histogram().added(np.full(10, 1e-6, np.float32)).added(np.array([1e6], np.float32))
    assert histogram.counts[0] == 10
    assert histogram.counts.sum() == 11


# thresholds


@given(values, st.sampled_from(sorted(METHODS)))
def test_a_threshold_is_positive_and_never_beyond_the_largest(numbers: list[float], method: Method) -> None:
    histogram = Histogram().added(np.array(numbers, np.float32))
    found = threshold(histogram, method)
    assert 0 < found <= (histogram.largest or 1.0)


def test_percentile_is_the_quantile_to_one_bin() -> None:
    numbers = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    histogram = Histogram().added(numbers)
    assert percentile(histogram, 99.0) == pytest.approx(np.quantile(np.abs(numbers), 0.99), abs=histogram.limit / BINS)


def test_mse_finds_the_threshold_that_a_search_on_the_values_finds() -> None:
    numbers = np.random.default_rng(0).laplace(size=20_000).astype(np.float32)
    candidates = np.linspace(0.05, 1, 96) * np.abs(numbers).max()
    errors = [float(((round_activation(numbers, t) - numbers) ** 2).mean()) for t in candidates]
    found = mse(Histogram().added(numbers))
    assert ((round_activation(numbers, found) - numbers) ** 2).mean() <= 1.02 * min(errors)


def test_entropy_clips_outliers_and_is_not_misled_by_zeros() -> None:
    rng = np.random.default_rng(0)
    numbers = np.abs(rng.standard_normal(50_000)).astype(np.float32)
    outlier = np.array([40.0], np.float32)
    assert 2.5 < entropy(Histogram().added(numbers).added(outlier)) < 20
    # What a ReLU leaves: half of it zeros. Their number says nothing about the range of the rest.
    plain, sparse = Histogram().added(numbers), Histogram().added(numbers).added(np.zeros(500_000, np.float32))
    assert entropy(sparse) == pytest.approx(entropy(plain), rel=0.1)


def test_minmax_of_zeros_alone_is_one() -> None:
    histogram = Histogram().added(np.zeros(5, np.float32))
    assert minmax(histogram) == 0
    assert threshold(histogram, "minmax") == 1


# rounding and smoothing


def test_weights_round_to_half_a_step_of_their_own_channel() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32) * np.array([1, 10, 100, 0], np.float32)
    steps = np.abs(weight).max(axis=0) / 127
    assert (np.abs(round_weight(weight, axis=1) - weight) <= steps / 2 + 1e-6).all()
    levels = weight_levels(weight, weight_scales(weight, 1), 1)
    assert levels.dtype == np.int8
    assert np.abs(levels).max(axis=0).tolist() == [127, 127, 127, 0]


@pytest.mark.parametrize("size", [1e-45, 1e-43, 1e-38])
def test_a_channel_of_the_smallest_numbers_rounds_to_nearly_nothing(size: float) -> None:
    weight = np.ones((4, 2), np.float32)
    weight[:, 1] = size
    rounded = round_weight(weight, axis=1)
    assert (rounded[:, 0] == 1).all()
    assert (np.abs(rounded[:, 1]) <= 2e-38).all()


def test_smoothing_balances_channels_and_full_strength_flattens_the_activation() -> None:
    rng = np.random.default_rng(0)
    largest = rng.uniform(1, 2, 16).astype(np.float32)
    largest[3] = 200
    weight = rng.standard_normal((16, 8)).astype(np.float32)
    flat = largest / factors(largest, weight, 1.0)
    assert flat.max() / flat.min() == pytest.approx(1, rel=1e-4)
    half = largest / factors(largest, weight, 0.5)
    assert half.max() / half.min() < largest.max() / largest.min() / 5
    assert np.isfinite(factors(np.zeros(16, np.float32), weight * 0, 0.5)).all()


# giving back

layers = tuple(Layer(str(i), "MatMul", f"out{i}", f"in{i}", f"w{i}", 1, f"out{i}", None) for i in range(20))


@given(st.integers(0, 19))
def test_the_fewest_layers_are_returned_in_few_measurements(needed: int) -> None:
    calls = []

    def drop(kept: Sequence[Layer]) -> float:
        calls.append(len(kept))
        return 0.1 if len(layers) - len(kept) < needed else 0.001

    outcome = give_back(layers, drop, 0.003)
    assert outcome.met
    assert outcome.returned == layers[:needed]
    assert len(calls) == len(outcome.measured) <= 10


def test_the_best_result_is_reported_if_no_layer_can_stay() -> None:
    outcome = give_back(layers, lambda kept: 0.5 + 0.01 * len(kept), 0.003)
    assert not outcome.met
    assert len(outcome.returned) == 19
    assert outcome.drop == pytest.approx(0.51)


# cache


def make(graph: str = "a" * 64) -> Ranges:
    return Ranges(
        graph=graph,
        data=DataFingerprint(images=2, sha256="b" * 64),
        method="mse",
        batch=1,
        layers={"one": Range(input=1.0, output=2.0)},
        smoothing={},
    )


def look_up(folder: Path, graph: str = "a" * 64, images: int = 2) -> tuple[Ranges, int]:
    calls = []

    def compute() -> Ranges:
        calls.append(1)
        return make(graph).model_copy(update={"data": DataFingerprint(images=images, sha256="b" * 64)})

    found = cached(folder, graph, DataFingerprint(images=images, sha256="b" * 64), "mse", 1, compute)
    return found, len(calls)


def test_the_cache_is_used_for_the_same_question_only(tmp_path: Path) -> None:
    assert look_up(tmp_path)[1] == 1
    assert look_up(tmp_path) == (make(), 0)
    assert look_up(tmp_path, graph="c" * 64)[1] == 1
    assert look_up(tmp_path, images=3)[1] == 1
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("library", ["onnxruntime", "cv2", "numpy"])
def test_ranges_of_another_version_are_measured_again(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look_up(tmp_path)[1] == 1
    monkeypatch.setattr(f"{library}.__version__", "0.0.1")
    assert look_up(tmp_path) == (make(), 1)
    assert look_up(tmp_path) == (make(), 0)
    monkeypatch.undo()
    assert look_up(tmp_path) == (make(), 0)


@pytest.mark.parametrize(
    ("package", "name"), [(aselect_calibration, "thresholds.py"), (aselect_runtime, "records/resize.py")]
)
def test_ranges_of_other_code_are_measured_again(
    package: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(Path(str(package.__file__)).parent, tmp_path / "code")
    monkeypatch.setattr(package, "__file__", str(copy / "__init__.py"))
    kept = tmp_path / "kept"
    assert look_up(kept)[1] == 1
    assert look_up(kept)[1] == 0
    with (copy / name).open("a") as module:
        module.write("BINS = 1\n")
    assert look_up(kept)[1] == 1


def test_a_cache_that_cannot_be_kept_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert look_up(tmp_path / "file" / "cache") == (make(), 1)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"schema": "ranges/9.0"}', make("d" * 64).to_json().encode()],
    ids=["empty", "cut", "newer", "other"],
)
def test_a_bad_cache_is_named(tmp_path: Path, content: bytes) -> None:
    look_up(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"calibration cache .*remove"):
        look_up(tmp_path)
