"""The clock of each source: positions in videos of a variable rate, clips of a folder, and sources without a rate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra `record` is not installed")

import av

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.pipeline.events import EventPlan
from aselect_runtime.pipeline.still import StillFrames
from aselect_runtime.pipeline.temporal import TemporalAverage
from aselect_runtime.results import Captured, SourceInfo
from aselect_runtime.rules import Rules
from aselect_runtime.sinks.event_recording import EventRecording
from aselect_runtime.sinks.event_videos import EventVideos


def _rules(**more: object) -> Rules:
    return Rules.model_validate({"rules": [{"name": "light", "class": "bright", "above": 0.5, **more}]})


def _write(path: Path, times: Sequence[float], bright: tuple[float, float]) -> Path:
    """Frames at these seconds, white from the first second of `bright` up to the second, otherwise black."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for seconds in times:
            level = 255 if bright[0] <= seconds < bright[1] else 0
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="bgr24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _events(model: Path, source: Any, lines: Path, rules: Rules, *, videos: Path | None = None) -> list[dict[str, Any]]:
    """The lines of the events of a run."""
    recorded = [EventVideos(EventRecording(videos, pre=1, post=1), rules, [source])] if videos else []
    manifest, session = open_model(model, "cpu")
    run_pipeline(manifest, session, [source], events=EventPlan(rules, (str(lines), *recorded)))
    session.close()
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


class _Sensor:
    """A source that states no rate: a dark frame, then bright ones."""

    info = SourceInfo("sensor", fps=0.0)

    def __enter__(self) -> _Sensor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]:
        for index in range(6):
            frame = np.full((48, 64, 3), 255 if index else 0, np.uint8)
            yield Captured(frame, index, f"sensor-{index}", self.info, t_monotonic=50.0 + 2 * index)


PAUSED = [*(n / 10 for n in range(20)), *(60 + n / 10 for n in range(20))]
"""Ten frames a second, and nothing between 1.9 and 60 s: the mean rate is 0.65 frames a second."""


def test_an_event_in_a_video_of_a_variable_rate_has_its_position(seg_model: Path, tmp_path: Path) -> None:
    video = _write(tmp_path / "phone.mkv", PAUSED, (60.5, 61.5))
    start, end = _events(seg_model, str(video), tmp_path / "e.jsonl", _rules(), videos=tmp_path / "videos")
    assert start["position"] == end["position"] == pytest.approx(60.5)
    assert end["seconds"] == pytest.approx(1.0)
    with av.open(str(tmp_path / "videos" / f"{end['id']}.mkv")) as copy:
        levels = [frame.to_ndarray(format="gray").mean() for frame in copy.decode(video=0)]
    assert sum(level > 200 for level in levels) == 10


def test_the_seconds_of_a_rule_are_those_of_the_positions(seg_model: Path, tmp_path: Path) -> None:
    video = _write(tmp_path / "phone.mkv", PAUSED, (60.5, 61.5))
    assert _events(seg_model, str(video), tmp_path / "e.jsonl", _rules(**{"for": 1.5})) == []
    half = _events(seg_model, str(video), tmp_path / "e.jsonl", _rules(**{"for": 0.5, "below_for": 0.2}))
    assert [event["state"] for event in half] == ["start", "end"]


def test_images_for_calibration_are_seconds_of_the_video_apart(seg_model: Path, tmp_path: Path) -> None:
    video = _write(tmp_path / "phone.mkv", [*(n / 50 for n in range(45)), 60.0], (0.3, 0.8))
    manifest, session = open_model(seg_model, "cpu")
    run_pipeline(manifest, session, [str(video)], record=tmp_path / "frames")
    session.close()
    assert len(list((tmp_path / "frames").glob("*.png"))) == 1  # at 0 s; that at 60 s is the same


def test_a_source_without_a_rate_has_the_time_of_arrival(seg_model: Path, tmp_path: Path) -> None:
    start, end = _events(seg_model, _Sensor(), tmp_path / "e.jsonl", _rules(**{"for": 4.0}))
    assert (start["seconds"], end["seconds"]) == (4.0, 8.0)
    manifest, session = open_model(seg_model, "cpu")
    run_pipeline(manifest, session, [_Sensor()], record=tmp_path / "frames")
    session.close()
    assert len(list((tmp_path / "frames").glob("*.png"))) == 2


def _tenths(count: int) -> list[float]:
    return [number / 10 for number in range(count)]


def _folder(folder: Path) -> Path:
    """Bright from 1 s to the end (2.9 s), then bright from 0.5 to 2 s of 5 s, at another rate."""
    _write(folder / "a.mp4", _tenths(30), (1.0, 9.0))
    _write(folder / "b.mp4", [number / 20 for number in range(100)], (0.5, 2.0))
    return folder


def test_each_video_of_a_folder_has_its_own_events_and_clock(seg_model: Path, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "clips")
    told = _events(seg_model, str(folder), tmp_path / "e.jsonl", _rules(cooldown=30))
    ends = [(Path(one["source"]).name, one["position"], one["seconds"]) for one in told if one["state"] == "end"]
    assert [one["state"] for one in told] == ["start", "end"] * 2
    assert ends == [("a.mp4", 1.0, pytest.approx(1.9)), ("b.mp4", 0.5, pytest.approx(1.5))]


def test_seconds_of_a_rule_are_not_counted_across_two_videos(seg_model: Path, tmp_path: Path) -> None:
    _write(tmp_path / "clips" / "a.mp4", _tenths(20), (1.0, 9.0))
    _write(tmp_path / "clips" / "b.mp4", _tenths(20), (0.0, 1.0))
    assert _events(seg_model, str(tmp_path / "clips"), tmp_path / "e.jsonl", _rules(**{"for": 1.5})) == []


@pytest.mark.parametrize("still", [None, 0.01])
def test_a_new_video_is_a_new_scene_for_the_average(seg_model: Path, tmp_path: Path, still: float | None) -> None:
    _write(tmp_path / "clips" / "a.mp4", _tenths(20), (0.0, 9.0))
    _write(tmp_path / "clips" / "b.mp4", _tenths(20), (9.0, 9.0))
    manifest, session = open_model(seg_model, "cpu")
    shares: list[tuple[str, float]] = []
    run_pipeline(
        manifest,
        session,
        [str(tmp_path / "clips")],
        smooth=0.1,
        skip_still=still,
        on_frame=lambda result: shares.append((result.captured.label[0], result.areas["bright"])),
    )
    session.close()
    assert shares == [("a", 1.0)] * 20 + [("b", 0.0)] * 20


def test_every_frame_of_a_slow_video_is_averaged() -> None:
    average, source = TemporalAverage(0.25, classes=2), SourceInfo("a.mp4", 25)
    for number, score in enumerate([0.0, 1.0, 1.0]):  # three seconds of processing for each frame
        captured = Captured(np.zeros((8, 8, 3), np.uint8), number, "a", source, t_monotonic=3.0 * number)
        scores = average(captured, {"scores": np.array([score, 1 - score], np.float32)})["scores"]
    assert scores.tolist() == pytest.approx([0.4375, 0.5625])


def test_a_repeated_frame_is_not_that_of_another_file() -> None:
    still, pixels = StillFrames(0.01), np.full((24, 32, 3), 9, np.uint8)
    got = [
        still.still(0, Captured(pixels, number, name, SourceInfo(name, 10), position=0.0), pixels)
        for number, name in enumerate(["a.mp4", "a.mp4", "b.mp4", "b.mp4"])
    ]
    assert got == [False, True, False, True]


def test_every_video_of_a_folder_gives_images_for_calibration(seg_model: Path, tmp_path: Path) -> None:
    _write(tmp_path / "clips" / "a.mp4", [0.0, 60.0], (99.0, 99.0))
    _write(tmp_path / "clips" / "b.mp4", _tenths(5), (0.0, 99.0))
    manifest, session = open_model(seg_model, "cpu")
    run_pipeline(manifest, session, [str(tmp_path / "clips")], record=tmp_path / "frames")
    session.close()
    assert len(list((tmp_path / "frames").glob("*.png"))) == 2
