"""Sessions that take a batch while they work on another: order, overlap, delay, errors and early ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import TracebackType

import numpy as np
import pytest

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import EngineError, InputError
from aselect_runtime.frames import Frame
from aselect_runtime.pipeline.feed import Feed
from aselect_runtime.results import Arrays, Captured, Result, SourceInfo


class _Pipelined:
    """Answers every pixel with the class that its grey value names, one collect for each submit, `depth` at most."""

    device = "pipelined"
    depth = 2

    def __init__(self, broken: int | None = None) -> None:
        self.pending: deque[Frame] = deque()
        self.most = self.submitted = self.collected = 0
        self._broken = broken

    def submit(self, frames: Frame) -> None:
        assert len(self.pending) < self.depth
        self.pending.append(frames[..., 0].copy())
        self.submitted += 1
        self.most = max(self.most, len(self.pending))

    def collect(self) -> Arrays:
        answer = self.pending.popleft()
        if self.collected == self._broken:
            raise EngineError("device lost")
        self.collected += 1
        return {"class_map": answer}

    def infer(self, frames: Frame) -> Arrays:
        raise AssertionError(f"got infer of {frames.shape}")

    def close(self) -> None: ...


class _Numbered:
    """Frames whose grey value is their number modulo 3, each delivered when `before` has returned."""

    def __init__(self, count: int, *, live: bool = False, before: Callable[[int], object] = lambda _: None) -> None:
        self.info = SourceInfo("numbered", fps=100, live=live)
        self._count = count
        self._before = before

    def __enter__(self) -> _Numbered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]:
        for index in range(self._count):
            self._before(index)
            yield Captured(np.full((24, 32, 3), index % 3, np.uint8), index, f"n-{index:06d}", self.info)


@pytest.mark.parametrize(("batch", "most"), [(1, None), (1, 7), (4, None), (4, 7)])
def test_a_video_keeps_the_session_full_and_its_order(
    write_model: Callable[..., Path], tmp_path: Path, batch: int, most: int | None
) -> None:
    manifest, _ = open_model(write_model(tmp_path / "model", batch=batch), "cpu")
    session, seen = _Pipelined(), list[Result]()
    inputs = [_Numbered(30)]
    summary = run_pipeline(manifest, session, inputs, max_frames=most, on_frame=seen.append)
    count = most or 30
    assert summary.frames == count
    assert [result.captured.index for result in seen] == list(range(count))
    assert all((result.outputs["class_map"] == result.captured.index % 3).all() for result in seen)
    assert all(result.latency_ms[stage] >= 0 for result in seen for stage in ("wait", "infer"))
    assert session.submitted == session.collected == -(-count // batch)
    assert not session.pending


def test_two_batches_are_in_the_session_where_two_are_there(seg_model: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    session, ahead = _Pipelined(), Event()
    collect = session.collect

    def wait_for_the_video() -> Arrays:
        ahead.wait(10)
        return collect()

    session.collect = wait_for_the_video  # type: ignore[method-assign]
    inputs = [_Numbered(6, before=lambda index: ahead.set() if index == 3 else None)]
    assert run_pipeline(manifest, session, inputs).frames == 6
    assert session.most == 2


@pytest.mark.parametrize("live", [True, False])
def test_no_result_waits_for_the_next_frame(seg_model: Path, live: bool) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    session, answered = _Pipelined(), [Event() for _ in range(4)]
    waited: list[bool] = []

    def wait_for_the_last(index: int) -> None:
        if index:
            waited.append(answered[index - 1].wait(10))

    inputs = [_Numbered(4, live=live, before=wait_for_the_last)]
    run_pipeline(manifest, session, inputs, on_frame=lambda r: answered[r.captured.index].set())
    assert waited == [True] * 3


def test_a_live_frame_does_not_grow_old_inside_the_session(seg_model: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    session = _Pipelined()
    run_pipeline(manifest, session, [_Numbered(200, live=True)])
    assert session.collected >= 1
    assert session.most == 1


def test_an_error_of_the_session_leaves_nothing_pending(seg_model: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    session, seen = _Pipelined(broken=3), list[int]()
    with pytest.raises(EngineError, match="device lost"):
        run_pipeline(manifest, session, [_Numbered(30)], on_frame=lambda r: seen.append(r.captured.index))
    assert seen == [0, 1, 2]
    assert not session.pending


def test_an_error_of_the_source_comes_after_every_answer(seg_model: Path) -> None:
    def break_off(index: int) -> None:
        if index == 5:
            raise InputError("video.mp4: got 5 frames, expected 30")

    manifest, _ = open_model(seg_model, "cpu")
    session, seen = _Pipelined(), list[int]()
    inputs = [_Numbered(30, before=break_off)]
    with pytest.raises(InputError, match="got 5 frames"):
        run_pipeline(manifest, session, inputs, on_frame=lambda r: seen.append(r.captured.index))
    assert seen == [0, 1, 2, 3, 4]


def test_an_early_end_leaves_nothing_pending(seg_model: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    session = _Pipelined()

    def refuse(_: Result) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        run_pipeline(manifest, session, [_Numbered(1000)], on_frame=refuse)
    assert not session.pending
    assert session.submitted < 1000


def test_a_feed_that_is_not_waited_for() -> None:
    feed: Feed[int] = Feed([False], depth=4)
    assert feed.take(2, wait=False) == []
    feed.put(0, 1)
    assert feed.take(2, wait=False) == []  # a full batch may still come
    feed.put(0, 2)
    assert feed.take(2, wait=False) == [1, 2]
    feed.put(0, 3)
    feed.fail(InputError("broken"))
    assert feed.take(2, wait=False) == [3]
    assert feed.take(2, wait=False) == []
    with pytest.raises(InputError, match="broken"):
        feed.take(2)
