"""Frames in which nothing moves: what counts as still, and what repeated answers look like everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime import Model, open_model, run_pipeline
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.pipeline.still import CELL, REFRESH, StillFrames
from aselect_runtime.pipeline.temporal import TemporalAverage
from aselect_runtime.results import Arrays, Captured, Result, SourceInfo
from tests.runtime.test_inference import _Pipelined

VIDEO = SourceInfo("video", fps=10)
CAMERA = SourceInfo("camera", fps=10, live=True)


class _Levels:
    """Frames of the given grey levels, 24x32."""

    def __init__(self, levels: Sequence[int], info: SourceInfo = VIDEO) -> None:
        self.info = info
        self._levels = levels

    def __enter__(self) -> _Levels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]:
        for index, level in enumerate(self._levels):
            yield Captured(np.full((24, 32, 3), level, np.uint8), index, f"n-{index:06d}", self.info)


class _Counting:
    """Answers each pixel with the grey value of its frame, and counts the frames that it was given."""

    device = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def infer(self, frames: Frame) -> Arrays:
        self.calls += 1
        return {"class_map": frames[..., 0].copy()}

    def close(self) -> None: ...


def _captured(frame: Frame, index: int = 0, info: SourceInfo = VIDEO, t_monotonic: float = 0.0) -> Captured:
    return Captured(frame, index, "n", info, t_monotonic=t_monotonic)


def _still(filter_: StillFrames, frame: Frame, index: int = 0, stream: int = 0) -> bool:
    return filter_.still(stream, _captured(frame, index), frame)


def test_one_cell_that_changes_is_enough_and_noise_is_not() -> None:
    base = np.full((144, 192, 3), 100, np.uint8)
    noise = np.random.default_rng(0).normal(0, 3, base.shape)
    entered = base.copy()
    entered[64:72, 80:88] += 3  # one cell of 432, by 3 of 255 grey levels: 0.0118
    still = StillFrames(0.01)
    assert not _still(still, base)
    assert _still(still, np.clip(base + noise, 0, 255).astype(np.uint8))
    assert not _still(still, entered)
    assert _still(still, entered)


def test_a_slow_change_is_measured_from_the_last_inferred_frame() -> None:
    still = StillFrames(0.01)
    frames = [np.full((16, 16, 3), level, np.uint8) for level in (100, 101, 102, 103, 104, 105)]
    assert [_still(still, frame) for frame in frames] == [False, True, True, False, True, True]


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.floats(0.001, 0.2))
def test_still_means_that_no_cell_mean_changed_by_more(seed: int, rows: int, columns: int, threshold: float) -> None:
    random = np.random.default_rng(seed)
    first, second = (
        random.integers(0, 256, (rows, columns, 1, 1, 3), np.uint8).repeat(CELL, 2).repeat(CELL, 3) for _ in range(2)
    )
    second = np.where(random.random(second.shape[:4])[..., None] < 0.1, second, first)
    means = [each.mean(axis=(2, 3)) for each in (first, second)]
    change = np.abs(np.rint(means[0]) - np.rint(means[1])).max()
    frames = [each.swapaxes(1, 2).reshape(rows * CELL, columns * CELL, 3) for each in (first, second)]
    still = StillFrames(threshold)
    assert not _still(still, frames[0])
    if abs(change - threshold * 255) > 1:  # a mean that lies between two numbers may be rounded to either
        assert _still(still, frames[1]) == (change <= threshold * 255)


def test_streams_and_frame_sizes_are_kept_apart() -> None:
    still = StillFrames(0.01)
    pixels = np.zeros((24, 32, 3), np.uint8)
    assert not still.still(0, _captured(pixels), pixels)
    assert not still.still(1, _captured(pixels), pixels)
    assert still.still(0, _captured(pixels), pixels)
    assert not still.still(0, _captured(np.zeros((48, 32, 3), np.uint8)), pixels)


def test_a_still_scene_is_inferred_again_after_the_seconds_of_its_source() -> None:
    pixels = np.zeros((24, 32, 3), np.uint8)
    video, camera = StillFrames(0.01), StillFrames(0.01)
    by_number = [not _still(video, pixels, index) for index in range(120)]
    by_clock = [
        not camera.still(0, _captured(pixels, 0, CAMERA, t_monotonic=1000 + tenth / 10), pixels) for tenth in range(120)
    ]
    assert np.flatnonzero(by_number).tolist() == [0, int(10 * REFRESH), int(20 * REFRESH)]
    assert sum(by_clock) == 3


@pytest.mark.parametrize("threshold", [0, 1, -0.1, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(seg_model: Path, threshold: float) -> None:
    manifest, session = open_model(seg_model, "cpu")
    with pytest.raises(InputError, match="expected a share") as caught:
        run_pipeline(manifest, session, [_Levels([1])], skip_still=threshold)
    assert caught.value.parameters == ("skip_still",)


def test_repeated_answers_are_those_of_the_last_inferred_frame(seg_model: Path, tmp_path: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    session, seen = _Counting(), list[Result]()
    lines = tmp_path / "lines.jsonl"
    levels = [0, 1, 0, 2, 2, 2, 0, 0]
    summary = run_pipeline(
        manifest, session, [_Levels(levels)], [str(lines)], on_frame=seen.append, skip_still=1.5 / 255
    )
    # 1 is near 0, so it has the answer to 0; 2 is not.
    assert [int(result.outputs["class_map"].max()) for result in seen] == [0, 0, 0, 2, 2, 2, 0, 0]
    repeated = [False, True, True, False, True, True, False, True]
    assert [result.repeated for result in seen] == repeated
    told: list[dict[str, Any]] = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line.get("repeated", False) for line in told] == repeated
    assert ["infer" not in line["latency_ms"] for line in told] == repeated
    assert [line["frame"] for line in told] == list(range(8))
    assert (session.calls, summary.frames, summary.repeated) == (3, 8, 5)
    assert summary.sources[0].repeated == 5


def test_off_infers_every_frame(seg_model: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    session = _Counting()
    summary = run_pipeline(manifest, session, [_Levels([1] * 6)])
    assert (session.calls, summary.repeated) == (6, 0)


@pytest.mark.parametrize("batch", [1, 4])
def test_batches_and_sessions_that_overlap_keep_the_order(write_model: Any, tmp_path: Path, batch: int) -> None:
    manifest, _ = open_model(write_model(tmp_path / "model", batch=batch), "cpu")
    session, seen = _Pipelined(), list[Result]()
    levels = [0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0, 2, 2, 0, 0, 0, 0]
    run_pipeline(manifest, session, [_Levels(levels)], on_frame=seen.append, skip_still=1.5 / 255)
    assert [int(result.outputs["class_map"].max()) for result in seen] == levels
    assert [result.captured.index for result in seen] == list(range(len(levels)))
    assert sum(not result.repeated for result in seen) == 5
    assert session.submitted == session.collected <= 5
    assert not session.pending


def test_streams_side_by_side_repeat_their_own_answers(seg_model: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    seen = list[Result]()
    inputs = [_Levels([0] * 5, CAMERA), _Levels([2] * 5, SourceInfo("other", fps=10, live=True))]
    summary = run_pipeline(manifest, _Counting(), inputs, on_frame=seen.append, skip_still=0.004)
    assert all((result.outputs["class_map"] == 2 * result.stream).all() for result in seen)
    assert sum(not result.repeated for result in seen) == 2
    assert [source.repeated for source in summary.sources] == [source.frames - 1 for source in summary.sources]


def test_a_repeated_answer_does_not_count_again_in_the_average() -> None:
    average = TemporalAverage(0.5, classes=2)
    frame = np.zeros((8, 8, 3), np.uint8)
    first, second = (np.array(scores, np.float32) for scores in ([1, 0], [0, 1]))
    average(_captured(frame, t_monotonic=10), {"scores": first})
    for tenth in range(50):  # longer than the pause after which an average starts anew
        repeated = average.repeat(_captured(frame, t_monotonic=10 + tenth / 10))
        np.testing.assert_array_equal(repeated["scores"], first)
    mixed = average(_captured(frame, t_monotonic=15), {"scores": second})
    np.testing.assert_allclose(mixed["scores"], [0.5, 0.5])


def test_the_python_api_takes_it(seg_model: Path) -> None:
    with Model(seg_model, "cpu") as model:
        results = list(model.stream(_Levels([5, 5, 200]), skip_still=0.01))
    assert [result.repeated for result in results] == [False, True, False]
