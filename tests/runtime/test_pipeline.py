"""Whole runs in one process: all sinks, batches, live sources, and errors from every thread."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event, Semaphore
from types import TracebackType

import cv2
import numpy as np
import pytest

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import AselectError, EngineError, IncompleteError, InputError, WriteError
from aselect_runtime.frames import Frame
from aselect_runtime.pipeline.heartbeat import Heartbeat
from aselect_runtime.pipeline.output_plan import plan_outputs
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.pipeline.timing import STAGES, RunSummary
from aselect_runtime.records import Resize
from aselect_runtime.results import Arrays, Captured, Result, SourceInfo
from aselect_runtime.sinks import Write

STREET = "synthetic://street?size=48x64&frames=5"


def _run(
    model: Path, inputs: Sequence[str | Path], outputs: list[Path | str], max_frames: int | None = None
) -> RunSummary:
    manifest, session = open_model(model, "cpu")
    try:
        return run_pipeline(manifest, session, inputs, outputs, max_frames=max_frames)
    finally:
        session.close()


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _frames(path: Path) -> list[Frame]:
    capture = cv2.VideoCapture(str(path))
    frames: list[Frame] = []
    while True:
        found, frame = capture.read()
        if not found:
            capture.release()
            return frames
        frames.append(frame)  # type: ignore[arg-type]


def test_whole_run_with_every_sink(seg_model: Path, clip: Path, tmp_path: Path) -> None:
    names = ("video.mp4", "video.mkv", "video.jsonl", "last.png", "masks/")
    summary = _run(seg_model, [clip], [f"{tmp_path}/{name}" for name in names])

    assert (summary.frames, summary.dropped, summary.device) == (12, 0, "cpu")
    assert set(summary.stages) == set(STAGES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(name.strip("/") for name in names)

    lines = _lines(tmp_path / "video.jsonl")
    assert [line["frame"] for line in lines] == list(range(12))
    assert set(lines[0]) == {"frame", "source", "position", "t_capture", "t_result", "latency_ms", "areas"}
    assert lines[0]["areas"] == {"dark": 0.5, "middle": 0.0, "bright": 0.5}

    mask = cv2.imread(str(tmp_path / "masks/clip-000004.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.shape == (96, 128)
    assert set(mask[:, :56].ravel()) == {0}
    assert set(mask[:, 72:].ravel()) == {2}
    assert json.loads((tmp_path / "masks/masks.json").read_text())["classes"][2]["name"] == "bright"

    for name in ("video.mp4", "video.mkv"):
        video = _frames(tmp_path / name)
        assert len(video) == 12
        assert video[0].shape == (480, 640, 3)
        # Half black, half the class's colour (RGB 20, 30, 200), as BGR.
        assert np.abs(video[5][300, 100].astype(int) - (100, 15, 10)).max() < 12
    image = cv2.imread(str(tmp_path / "last.png"))
    assert image is not None
    assert tuple(image[300, 100]) == (100, 15, 10)


def test_classification_run(cls_model: Path, clip: Path, tmp_path: Path) -> None:
    _run(cls_model, [str(clip)], [tmp_path / "video.mp4", tmp_path / "video.jsonl"], max_frames=3)
    lines = _lines(tmp_path / "video.jsonl")
    assert len(lines) == 3
    top = lines[0]["top"]
    assert isinstance(top, dict)
    assert set(top) == {"dark", "middle", "bright"}
    assert list(top.values()) == sorted(top.values(), reverse=True)
    assert len(_frames(tmp_path / "video.mp4")) == 3


def test_letterbox_borders_count_for_nothing(write_model: Callable[..., Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", resize=Resize(mode="letterbox"))
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((20, 80, 3), np.uint8))
    _run(model, [str(tmp_path / "wide.png")], [tmp_path / "wide.jsonl", f"{tmp_path}/masks/"])
    assert _lines(tmp_path / "wide.jsonl")[0]["areas"] == {"dark": 1.0, "middle": 0.0, "bright": 0.0}
    mask = cv2.imread(str(tmp_path / "masks/wide.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.shape == (20, 80)


def test_last_batch_is_padded_and_inputs_follow_each_other(
    write_model: Callable[..., Path], clip: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", batch=5)
    summary = _run(model, [str(clip), STREET], [tmp_path / "all.jsonl", tmp_path / "all.mp4"])
    lines = _lines(tmp_path / "all.jsonl")
    assert summary.frames == len(lines) == 17
    assert [line["frame"] for line in lines] == [*range(12), *range(5)]
    assert {line["source"] for line in lines} == {str(clip), STREET}
    assert len(_frames(tmp_path / "all.mp4")) == 17


def test_error_of_a_late_input_keeps_the_results_of_the_others(seg_model: Path, clip: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nonsense")
    out = tmp_path / "out"
    outputs: list[Path | str] = [out / "a.mp4", out / "a.jsonl", out / "a.png", f"{out}/masks/"]
    with pytest.raises(InputError, match=r"bad\.mp4"):
        _run(seg_model, [clip, bad], outputs)
    assert sorted(path.name for path in out.iterdir()) == ["a.jsonl", "a.mp4", "a.png", "masks"]
    assert len(_lines(out / "a.jsonl")) == len(_frames(out / "a.mp4")) == 12


@pytest.mark.parametrize("name", ["ftp://host/topic", "display://", "video.gif", "/proc/nothing/video.mp4"])
def test_unusable_outputs(seg_model: Path, name: str) -> None:
    with pytest.raises(AselectError, match="expected"):
        _run(seg_model, [STREET], [name])


def test_masks_refuse_classification_and_foreign_folders(seg_model: Path, cls_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="segmentation"):
        _run(cls_model, [STREET], [f"{tmp_path}/masks/"])
    precious = tmp_path / "photos" / "family.jpg"
    precious.parent.mkdir()
    precious.touch()
    with pytest.raises(InputError, match=r"masks\.json"):
        _run(seg_model, [STREET], [f"{tmp_path}/photos/"])
    (precious.parent / "masks.json").write_text('{"classes": ["mine"]}')
    with pytest.raises(InputError, match=r"masks\.json of another kind"):
        _run(seg_model, [STREET], [f"{tmp_path}/photos/"])
    assert precious.exists()


def test_masks_of_a_later_run_replace_those_of_the_one_before_and_nothing_else(
    seg_model: Path, clip: Path, tmp_path: Path
) -> None:
    _run(seg_model, [clip], [f"{tmp_path}/masks/"])
    (tmp_path / "masks" / "mine.png").write_bytes(b"mine")
    _run(seg_model, [STREET], [f"{tmp_path}/masks/"])
    assert (tmp_path / "masks" / "mine.png").read_bytes() == b"mine"
    assert not list((tmp_path / "masks").glob("clip-*"))


def test_an_output_never_replaces_an_input_or_another_output(seg_model: Path, clip: Path, tmp_path: Path) -> None:
    before = clip.read_bytes()
    with pytest.raises(InputError, match="got the path of an input"):
        _run(seg_model, [clip], [clip])
    assert clip.read_bytes() == before
    with pytest.raises(InputError, match="twice"):
        _run(seg_model, [clip], [tmp_path / "a.png", tmp_path / "b" / ".." / "a.png"])


def test_an_image_is_not_written_where_the_next_run_would_read_it(seg_model: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(InputError, match="below the input folder"):
        _run(seg_model, [tmp_path], [tmp_path / "results" / "last.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.jsonl", "a.png"])
def test_an_output_follows_a_symbolic_link(seg_model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / name
    link.symlink_to(tmp_path / "disk" / name)
    _run(seg_model, [STREET], [link])
    assert link.is_symlink()
    assert (tmp_path / "disk" / name).stat().st_size


def test_masks_follow_a_link_and_replace_older_ones_alone(seg_model: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "masks").symlink_to("disk")
    for _ in range(2):
        _run(seg_model, [STREET], [tmp_path / "masks"])
        assert (tmp_path / "masks").is_symlink()
        assert len(list((tmp_path / "disk").glob("*.png"))) == 5


def test_masks_of_two_inputs_of_one_name_are_all_kept(seg_model: Path, clip: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / clip.name
    other.parent.mkdir()
    shutil.copy(clip, other)
    _run(seg_model, [clip, STREET, other], [f"{tmp_path}/masks/"])
    masks = tmp_path / "masks"
    assert len(list(masks.glob("clip-*.png"))) == len(list(masks.glob("clip-2/clip-*.png"))) == 12
    assert len(list(masks.glob("street-*.png"))) == 5


def test_masks_of_images_of_one_stem_are_all_kept(seg_model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, grey in (("a.jpg", 0), ("a.png", 255), ("b.png", 0)):
        cv2.imwrite(str(photos / name), np.full((8, 9, 3), grey, np.uint8))
    _run(seg_model, [photos], [f"{photos}/masks/"])
    found = {path.name: int(cv2.imread(str(path), 0).max()) for path in (photos / "masks").glob("*.png")}  # type: ignore[union-attr]
    assert found == {"a.jpg.png": 0, "a.png.png": 2, "b.png": 0}
    # Masks below the input's folder are results, which the next run does not take for images.
    assert _run(seg_model, [photos], [f"{photos}/masks/"]).frames == 3


def test_sources_that_give_two_frames_one_label_lose_none(seg_model: Path, tmp_path: Path) -> None:
    manifest, session = open_model(seg_model, "cpu")
    sources = [_Endless(3, live=False), _Endless(3, live=False)]
    with pytest.raises(IncompleteError, match="1 more input"):
        run_pipeline(manifest, session, sources, [f"{tmp_path}/masks/"])
    names = sorted(path.name for path in (tmp_path / "masks").glob("*.png"))
    assert names == ["0.png", "0~2.png", "1.png", "1~2.png", "2.png", "2~2.png"]


class _Endless:
    """A live source that is faster than any model, and is unplugged after `frames` if that is given."""

    def __init__(self, frames: int | None = None, *, live: bool = True) -> None:
        self.info = SourceInfo("endless", fps=100, live=live)
        self.open = False
        self._frames = frames

    def __enter__(self) -> _Endless:
        self.open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open = False

    def __iter__(self) -> Iterator[Captured]:
        index = 0
        while True:
            if index == self._frames:
                raise InputError(f"camera: got no frame {index}, expected a stream; check the cable")
            time.sleep(0.001)
            yield Captured(np.zeros((24, 32, 3), np.uint8), index, f"{index}", self.info)
            index += 1


class _Slow:
    """A session that waits in each call, and fails if asked to."""

    device = "slow"

    def __init__(
        self, error: Exception | None = None, answer: Arrays | None = None, pace: Semaphore | None = None
    ) -> None:
        self._error = error
        self._answer = answer
        self._pace = pace
        """Released by a sink that is to miss nothing of a live source, however late its thread is."""

    def infer(self, frames: Frame) -> Arrays:
        if self._error is not None:
            raise self._error
        if self._pace is not None:
            self._pace.acquire(timeout=60)
        time.sleep(0.01)
        return {"class_map": np.zeros_like(frames[..., 0])} if self._answer is None else self._answer

    def close(self) -> None: ...


@pytest.fixture
def endless() -> _Endless:
    return _Endless()


def test_live_source_drops_and_obeys_the_limits(seg_model: Path, endless: _Endless, tmp_path: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    summary = run_pipeline(manifest, _Slow(), [endless], [f"{tmp_path}/live.jsonl"], max_frames=8)
    assert summary.frames == 8
    assert summary.dropped > 0
    numbers = [int(str(line["frame"])) for line in _lines(tmp_path / "live.jsonl")]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 8
    assert not endless.open

    assert run_pipeline(manifest, _Slow(), [endless], max_seconds=1.0).frames > 0
    stop = Event()

    def stop_soon(result: Result) -> None:
        if result.captured.index > 5:
            stop.set()

    assert run_pipeline(manifest, _Slow(), [endless], stop=stop, on_frame=stop_soon).frames > 0


def test_a_class_that_does_not_exist_is_an_error(seg_model: Path, tmp_path: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    answer = np.zeros((1, 24, 32), np.uint8)
    answer[0, 5, 5] = 3
    with pytest.raises(EngineError, match=r"frame 0: got the class 3 .*its 3 classes"):
        run_pipeline(manifest, _Slow(answer={"class_map": answer}), [STREET], [f"{tmp_path}/masks/"])
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_not_finite_are_an_error(cls_model: Path) -> None:
    manifest, _ = open_model(cls_model, "cpu")
    answer = np.array([[0.5, np.nan, 0.5]], np.float32)
    with pytest.raises(EngineError, match="frame 0: got scores that are not finite"):
        run_pipeline(manifest, _Slow(answer={"scores": answer}), [STREET])


QUICK = Patience(connect=1.0, grab=0.5, first_delay=0.01, longest_delay=0.02)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_camera_that_breaks_off_is_connected_again(
    write_model: Callable[..., Path], tmp_path: Path, batch: int
) -> None:
    manifest, session = open_model(write_model(tmp_path / "model", batch=batch), "cpu")
    out = tmp_path / "out"
    names = [f"{out}/a.jsonl", f"{out}/a.mp4", f"{out}/a.png", f"{out}/masks/"]
    summary = run_pipeline(manifest, session, [_Endless(12)], names, max_frames=30, patience=QUICK)
    assert sorted(path.name for path in out.iterdir()) == ["a.jsonl", "a.mp4", "a.png", "masks"]
    assert summary.frames == 30
    assert summary.reconnects >= 2
    assert summary.sources[0].reconnects == summary.reconnects
    numbers = [int(str(line["frame"])) for line in _lines(out / "a.jsonl")]
    assert numbers == sorted(set(numbers))  # they go on counting over a reconnect
    assert _frames(out / "a.mp4")


@pytest.mark.parametrize("live", [True, False])
def test_an_input_that_never_delivered_leaves_nothing(seg_model: Path, tmp_path: Path, live: bool) -> None:
    manifest, session = open_model(seg_model, "cpu")
    with pytest.raises(InputError, match=r"got no frame 0, .*check the cable$"):
        run_pipeline(manifest, session, [_Endless(0, live=live)], [f"{tmp_path}/a.mp4"])
    assert list(tmp_path.iterdir()) == []


def test_a_camera_that_fails_after_the_last_wanted_frame_is_no_error(seg_model: Path) -> None:
    camera = _Endless(1)
    manifest, session = open_model(seg_model, "cpu")
    assert run_pipeline(manifest, session, [camera], max_frames=1).frames == 1


def test_a_stop_does_not_open_the_inputs_that_are_left(seg_model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nonsense")
    manifest, session = open_model(seg_model, "cpu")
    stop = Event()
    street = "synthetic://street?size=48x64&frames=100000"
    inputs = [street, str(tmp_path / "bad.mp4")]
    summary = run_pipeline(manifest, session, inputs, stop=stop, on_frame=lambda _: stop.set())
    assert summary.frames > 0


def test_errors_of_every_thread_reach_the_caller(seg_model: Path, endless: _Endless, tmp_path: Path) -> None:
    manifest, _ = open_model(seg_model, "cpu")
    path = tmp_path / "out.jsonl"
    with pytest.raises(EngineError, match="device lost"):
        run_pipeline(manifest, _Slow(EngineError("device lost")), [endless], [str(path)])
    assert not endless.open

    def broken(result: Result) -> None:
        raise WriteError(f"broken: full at {result.captured.index}")

    with pytest.raises(WriteError, match="full at"):
        run_pipeline(manifest, _Slow(), [endless], [_Calling("broken", broken)])
    assert not endless.open
    assert not [thread for thread in threading.enumerate() if thread.name in {"capture", "output"}]


class _Calling:
    """A sink that hands every result to a function."""

    def __init__(self, name: str, write: Write) -> None:
        self.name = name
        self._write = write

    def __enter__(self) -> Write:
        return self._write

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def test_a_slow_output_holds_up_neither_the_session_nor_another(seg_model: Path, endless: _Endless) -> None:
    quick: list[int] = []
    release, pace = Event(), Semaphore(2)

    def slow(_: Result) -> None:
        release.wait(10)

    def count(result: Result) -> None:
        quick.append(result.captured.index)
        pace.release()
        if len(quick) == 20:
            release.set()

    manifest, _ = open_model(seg_model, "cpu")
    sinks = [_Calling("slow", slow), _Calling("quick", count)]
    summary = run_pipeline(manifest, _Slow(pace=pace), [endless], sinks, max_frames=30)
    slow_one, quick_one = summary.sinks
    assert release.is_set()
    assert slow_one.dropped >= 10
    assert (quick_one.dropped, quick_one.written) == (0, 30)


def test_a_video_waits_for_a_slow_output(seg_model: Path) -> None:
    seen: list[int] = []

    def slow(result: Result) -> None:
        time.sleep(0.01)
        seen.append(result.captured.index)

    manifest, session = open_model(seg_model, "cpu")
    run_pipeline(manifest, session, ["synthetic://street?size=48x64&frames=20"], [_Calling("slow", slow)])
    assert seen == list(range(20))


def test_an_output_that_fails_is_named_and_the_others_go_on(
    seg_model: Path, endless: _Endless, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Result] = []
    pace = Semaphore(2)

    def broken(result: Result) -> None:
        raise WriteError(f"broken: full at {result.captured.index}")

    def good(result: Result) -> None:
        seen.append(result)
        pace.release()

    manifest, _ = open_model(seg_model, "cpu")
    sinks = [_Calling("broken", broken), _Calling("good", good)]
    with pytest.raises(WriteError, match="broken: full"):
        run_pipeline(manifest, _Slow(pace=pace), [endless], sinks, max_frames=80)
    assert len(seen) == 80
    assert "continuing without broken" in caplog.text
    failed = seen[-1].health.sinks[0]
    assert (failed.state, failed.written) == ("failed", 0)
    assert failed.dropped > 0


def test_a_stage_that_is_stuck_is_named() -> None:
    heartbeat = Heartbeat(limit=3600)
    with heartbeat.busy("infer"), heartbeat.busy("output a.mp4"):
        assert heartbeat.newly_stuck() == ()
        heartbeat.limit = -1.0  # as if so much time had passed
        assert heartbeat.newly_stuck() == ("infer", "output a.mp4")
        assert heartbeat.newly_stuck() == ()
    assert heartbeat.stuck() == ()
    assert heartbeat.stalls == {"infer": 1, "output a.mp4": 1}


def test_file_names_of_several_inputs() -> None:
    def names(outputs: list[str], inputs: list[str], lanes: list[list[int]]) -> list[str]:
        return [plan.uri for plan in plan_outputs(outputs, inputs, lanes)]

    cameras = ["/dev/video0", "rtsp://joe:pw@door/1"]
    assert names(["a.mp4", "m/", "a.jsonl", "mqtt://h/t"], cameras, [[0], [1]]) == [
        *("a-0.mp4", "a-1.mp4", "m-0/", "m-1/", "a.jsonl", "mqtt://h/t")
    ]
    assert names(["{source}.jsonl"], cameras, [[0], [1]]) == ["video0.jsonl", "door-1.jsonl"]
    assert names(["{source}.mp4"], ["x/a.mp4", "y/a.mp4"], [[0, 1]]) == ["a.mp4", "a-1.mp4"]
    crossing = ["b", "a-3", "a", "x/a"]  # the last one's number is another one's name
    assert names(["{source}/"], crossing, [[0, 1, 2, 3]]) == ["b/", "a-3/", "a/", "a-4/"]
    assert names(["a.mp4"], ["x/a.mp4", "y/a.mp4"], [[0, 1]]) == ["a.mp4"]
    (stamped,) = names(["{time}.mkv"], cameras[:1], [[0]])
    assert re.fullmatch(r"\d{8}T\d{6}Z\.mkv", stamped)
    for unknown, known in (
        ("{date}.mkv", "only {source} or {time} in braces"),
        ("{name}.mp4", "only {source} or {time} in braces"),
        ("o-{Time}.jsonl", "got {Time}, expected only"),
        ("v-{source2}.jsonl", "got {source2}, expected only"),
        ("{Source}/{stream}.jpg", "only {source} or {time} or {name} in braces"),
    ):
        with pytest.raises(InputError, match=known) as caught:
            names([unknown], cameras, [[0], [1]])
        assert caught.value.parameters == ("output",)
    assert names(["mqtt://h/{room}", "{time}-{name}.png"], cameras[:1], [[0]])[0] == "mqtt://h/{room}"


def test_a_camera_that_never_comes_leaves_the_files_of_the_run_before(seg_model: Path, tmp_path: Path) -> None:
    dead = "http://127.0.0.1:9/dead"
    files = dict.fromkeys(("127-0-0-1-9-dead.mp4", "127-0-0-1-9-dead.jsonl"), b"of the run before")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    outputs = [f"{tmp_path}/{{source}}.mp4", f"{tmp_path}/{{source}}.jsonl", f"{tmp_path}/{{source}}/"]
    manifest, session = open_model(seg_model, "cpu")
    summary = run_pipeline(manifest, session, [STREET, dead], outputs, max_frames=3)
    assert summary.frames == 3
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert not (tmp_path / "127-0-0-1-9-dead").exists()
    assert [sink.written for sink in summary.sinks] == [3, 0, 3, 0, 3, 0]


def test_lines_replace_an_older_longer_file(seg_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n" * 10_000)
    _run(seg_model, [STREET], [tmp_path / "a.jsonl"])
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert all("latency_ms" in json.loads(line) for line in lines)


def test_a_killed_recording_is_continued_by_the_next_run(seg_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    _run_recording(seg_model, folder)
    for name in (".00000007.png-01234567.aselect-abcdefgh.png", "holiday.png"):
        (folder / name).touch()
    _run_recording(seg_model, folder)
    assert (folder / "holiday.png").exists()
    assert all(cv2.imread(str(path)) is not None for path in folder.glob("[0-9]*.png"))


def _run_recording(model: Path, folder: Path) -> None:
    manifest, session = open_model(model, "cpu")
    assert run_pipeline(manifest, session, [STREET], record=folder).frames > 0
