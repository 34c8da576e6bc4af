"""Videos of events: the ring by hypothesis, parts of real files, and a real stream over HTTP and RTSP."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="the extra `record` is not installed")

import av

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.pipeline.events import EventPlan, plan_events
from aselect_runtime.rules import Event
from aselect_runtime.sinks.event_recording import EventRecording
from aselect_runtime.sinks.event_videos import EventVideos
from aselect_runtime.sinks.file_recorder import record_part
from aselect_runtime.sinks.packets import PacketRing, Stored
from tests.runtime.rtsp_server import interpreter, serving
from tests.runtime.test_events import RULES


def _write_video(path: Path, seconds: int, gop: int = 10, left: Callable[[int], bool] = lambda _: True) -> Path:
    """10 fps, a keyframe every `gop` frames; no two frames are alike, and the left half is bright or dark."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"sc_threshold": "1000000000"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, 0
        for number in range(10 * seconds):
            image = np.zeros((48, 64, 3), np.uint8)
            image[:, :32] = 255 if left(number) else 0
            image[:, 40:] = np.random.default_rng(number).integers(0, 256, (48, 24, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    return path


def _packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def _numbers(path: Path, source: Path) -> list[int]:
    """Which packets of `source` a copy has, by their bytes; the copy must be decodable too."""
    every, copied = _packets(source), _packets(path)
    capture = cv2.VideoCapture(str(path))
    assert all(capture.read()[0] for _ in copied)
    return [every.index(packet) for packet in copied]


packets = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 100)), max_size=60)


@given(packets, st.integers(0, 20), st.integers(0, 80))
def test_the_ring_has_everything_back_to_a_keyframe(given_: list[tuple[bool, int, int]], kept: int, ago: int) -> None:
    ring, every, now = PacketRing(float(kept)), list[Stored](), 0.0
    for key, pause, size in given_:
        now += pause
        every.append(Stored(bytes(size), None, None, Fraction(1), key, now))
        ring.append(every[-1])
    keys = [place for place, packet in enumerate(every) if packet.key]
    got = ring.since(now - ago)
    if not keys:
        assert got == []
        return
    assert got[0].key
    assert got == every[-len(got) :]
    wanted = [place for place in keys if every[place].arrived <= now - min(ago, kept)]
    assert len(every) - len(got) <= max(wanted, default=keys[0])
    if ago <= kept:
        assert len(every) - len(got) == max(
            [place for place in keys if every[place].arrived <= now - ago], default=keys[0]
        )


@given(packets)
def test_the_ring_is_bounded_and_begins_with_a_keyframe(given_: list[tuple[bool, int, int]]) -> None:
    ring = PacketRing(1e9, most_bytes=250)
    for number, (key, _, size) in enumerate(given_):
        ring.append(Stored(bytes(size), None, None, Fraction(1), key, float(number)))
        got = ring.since(-1.0)
        assert sum(len(packet.data) for packet in got) <= 250
        assert not got or got[0].key


def test_a_part_of_a_file_begins_with_the_keyframe_before_it(tmp_path: Path) -> None:
    video = _write_video(tmp_path / "a.mp4", seconds=10)
    record_part(str(video), tmp_path / "part.mkv", 4.35, 6.0)
    numbers = _numbers(tmp_path / "part.mkv", video)
    assert (numbers[0], numbers[-1]) == (40, 60)
    assert numbers == list(range(40, 61))
    record_part(str(video), tmp_path / "all.mkv", -5.0, 99.0)
    assert _numbers(tmp_path / "all.mkv", video) == list(range(100))


def test_a_run_records_its_events(seg_model: Path, tmp_path: Path) -> None:
    video = _write_video(tmp_path / "a.mp4", seconds=10, left=lambda number: 40 <= number < 60)
    lines, folder = tmp_path / "events.jsonl", tmp_path / "videos"
    videos = EventVideos(EventRecording(folder, pre=0.5, post=1.0), RULES, [str(video)])
    manifest, session = open_model(seg_model, "cpu")
    run_pipeline(manifest, session, [str(video)], events=EventPlan(RULES, (str(lines), videos)))
    told = json.loads(lines.read_text().splitlines()[-1])
    assert (told["position"], told["seconds"]) == (4.0, 2.0)
    assert _numbers(folder / f"{told['id']}.mkv", video) == list(range(30, 71))  # 3.5 to 7 s, from the keyframe at 3 s


@contextmanager
def _streaming(video: Path) -> Iterator[str]:
    """A live stream over HTTP: MPEG-TS of the video's packets at their times, again and again, for each client."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                _play(video, self.wfile)
            except (OSError, av.FFmpegError):
                return

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://us:hush-hush@127.0.0.1:{server.server_address[1]}/live"
        finally:
            server.shutdown()
            thread.join()


def _play(video: Path, out: Any) -> None:
    begun = time.monotonic()
    with av.open(str(video)) as source, av.open(out, "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None:
                continue
            threading.Event().wait(max(0.0, begun + float(packet.dts * packet.time_base) - time.monotonic()))
            packet.stream = stream
            target.mux(packet)
            out.flush()


@contextmanager
def _restarting(video: Path) -> Iterator[str]:
    """An encoder that starts again once: its clock begins anew, and after that it is gone."""
    served: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.append(self.path)
            self.send_response(200 if len(served) == 1 else 404)
            self.end_headers()
            if len(served) == 1:
                self.wfile.write(2 * video.read_bytes())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/live"
        finally:
            server.shutdown()
            thread.join()


def _event(start: float, end: float | None) -> Event:
    return Event("1000-1-a", "a", "b", None, 0, "c", start, end, 0.0, 0.5)


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "never true"
        threading.Event().wait(0.02)


def test_a_live_stream_is_recorded_from_before_the_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = _write_video(tmp_path / "a.ts", seconds=12, gop=5)
    with _streaming(video) as uri, caplog.at_level(logging.WARNING):
        videos = EventVideos(EventRecording(tmp_path / "videos", pre=1.0, post=0.5), RULES, [uri])
        with videos as deliver:
            (recorder,) = videos._recorders.values()
            time.sleep(3)  # the past that the ring is to hold
            now = time.time()
            deliver(_event(now, None))
            assert recorder.busy()
            deliver(_event(now, now + 0.5))
            _until(lambda: not recorder.busy())
    numbers = _numbers(tmp_path / "videos" / "1000-1-a.mkv", video)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert numbers[0] % 5 == 0  # a keyframe
    assert 18 <= len(numbers) <= 36, "a second before, one of event and what comes after it, and up to a keyframe"
    assert numbers[0] > 0
    assert "hush-hush" not in caplog.text


def test_a_stream_that_breaks_is_recorded_in_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = _write_video(tmp_path / "a.ts", seconds=2, gop=5)
    with (
        _streaming(video) as uri,
        caplog.at_level(logging.WARNING),
        EventVideos(EventRecording(tmp_path / "videos"), RULES, [uri]) as deliver,
    ):
        deliver(_event(time.time(), None))
        _until(lambda: list((tmp_path / "videos").glob("*-part2.mkv")))
    assert len(_numbers(tmp_path / "videos" / "1000-1-a.mkv", video)) > 10
    assert "trying again" in caplog.text
    assert "hush-hush" not in caplog.text


def test_a_camera_whose_clock_begins_again_is_recorded_in_parts(tmp_path: Path) -> None:
    video = _write_video(tmp_path / "a.ts", seconds=10, gop=5)
    with (
        _restarting(video) as uri,
        (videos := EventVideos(EventRecording(tmp_path / "videos"), RULES, [uri])) as deliver,
    ):
        (recorder,) = videos._recorders.values()
        deliver(_event(time.time(), None))
        _until(lambda: recorder._lost)
    for part in ("1000-1-a.mkv", "1000-1-a-part2.mkv"):
        assert _numbers(tmp_path / "videos" / part, video) == list(range(100))


def test_a_stream_whose_codec_matroska_lacks_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "a.flv"), "w") as container:
        stream = container.add_stream("flv", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(50):
            frame = np.full((48, 64, 3), 5 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))
    with (
        _restarting(tmp_path / "a.flv") as uri,
        (videos := EventVideos(EventRecording(tmp_path / "videos"), RULES, [uri])) as deliver,
    ):
        (recorder,) = videos._recorders.values()
        deliver(_event(time.time(), None))
        _until(lambda: recorder._lost)
        assert not recorder.busy()
    assert f"{uri}: got flv video, expected a codec that Matroska holds" in caplog.text
    assert not list((tmp_path / "videos").iterdir())


def test_a_run_of_several_cameras_records_the_events_of_each(seg_model: Path, tmp_path: Path) -> None:
    one = _write_video(tmp_path / "a.ts", seconds=8, gop=5, left=lambda number: 25 <= number < 45)
    other = _write_video(tmp_path / "b.ts", seconds=8, gop=5, left=lambda number: number >= 35)
    lines, folder = tmp_path / "events.jsonl", tmp_path / "videos"
    manifest, session = open_model(seg_model, "cpu")
    with _streaming(one) as first, _streaming(other) as second:
        videos = EventVideos(EventRecording(folder, pre=0.5, post=0.5), RULES, [first, second])
        plan = EventPlan(RULES, (str(lines), videos))
        run_pipeline(manifest, session, [first, second], events=plan, max_seconds=7)
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {each["input"] for each in told} == {0, 1}
    for stream, source in enumerate((one, other)):
        start, end = [each for each in told if each["input"] == stream][:2]
        assert (start["state"], end["state"]) == ("start", "end")
        numbers = _numbers(folder / f"{start['id']}.mkv", source)
        assert set(numbers) & set(range(25 if source is one else 35, 45)), "the frames of the event"
    assert "hush-hush" not in lines.read_text()


@pytest.mark.skipif(interpreter() is None, reason="GStreamer's RTSP server is not installed")
def test_an_rtsp_camera_is_recorded(tmp_path: Path, free_port: int) -> None:
    with serving(free_port):
        uri = f"rtsp://127.0.0.1:{free_port}/live"
        with EventVideos(EventRecording(tmp_path, pre=1, post=1), RULES, [uri]) as deliver:
            time.sleep(3)
            deliver(_event(time.time(), None))
            time.sleep(1)
    assert cv2.VideoCapture(str(tmp_path / "1000-1-a.mkv")).read()[0]


def test_size_and_age_are_bounded_and_foreign_files_stay(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / f"100{number}-1-a.mkv"
        path.write_bytes(bytes(1000))
        os.utime(path, (1e9 + number, time.time() - 100 * number))
    old = tmp_path / "1-1-old.mkv"
    old.write_bytes(b"a")
    os.utime(old, (0, time.time() - 3 * 86_400))
    (tmp_path / "holiday.mkv").write_bytes(bytes(10_000))
    video = _write_video(tmp_path / "a.mp4", seconds=1)
    with EventVideos(EventRecording(tmp_path, most_bytes=2500, most_days=2), RULES, [str(video)]):
        pass
    assert {path.name for path in tmp_path.glob("*.mkv")} == {"1000-1-a.mkv", "1001-1-a.mkv", "holiday.mkv"}


def test_videos_of_a_clock_that_was_not_set_are_not_old(tmp_path: Path) -> None:
    before = tmp_path / "1000-1-a.mkv"
    before.write_bytes(b"a")
    os.utime(before, (1000, 1000))  # 1970: a machine without a battery for its clock
    during = tmp_path / "1001-1-a.mkv"
    video = _write_video(tmp_path / "a.mp4", seconds=1)
    recording = EventRecording(tmp_path, most_days=2)
    with EventVideos(recording, RULES, [str(video)]) as deliver:
        during.write_bytes(b"a")
        deliver(_event(0.0, None))
        os.utime(during, (0, time.time() - 3 * 86_400))  # as if the clock were put three days forward now
    assert before.exists()
    assert during.exists()
    with EventVideos(EventRecording(tmp_path, most_bytes=1, most_days=20), RULES, [str(video)]):
        pass
    assert before.exists()  # it counts as the newest
    assert not during.exists()


@pytest.mark.parametrize("uri", ["/dev/video0", "csi://0", "synthetic://street", "v4l2src ! appsink", "photos/", "0"])
def test_inputs_without_a_compressed_stream_are_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InputError, match="no compressed stream") as caught:
        EventVideos(EventRecording(tmp_path / "videos"), RULES, [uri])
    assert caught.value.parameters == ("record_events",)
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.flv", "flv", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("a.avi", "rawvideo", "yuv420p"),
        ("a.wmv", "wmv2", "yuv420p"),
    ],
)
def test_a_video_whose_packets_cannot_be_copied_is_refused_at_the_start(
    tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")))
        container.mux(stream.encode(None))
    pattern = rf"{name}: got {codec}.* video .+, expected one whose packets can be copied.+; convert it"
    with pytest.raises(InputError, match=pattern) as caught:
        EventVideos(EventRecording(tmp_path / "videos"), RULES, [str(tmp_path / name)])
    assert caught.value.parameters == ("record_events",)
    with pytest.raises(InputError, match=pattern):
        record_part(str(tmp_path / name), tmp_path / "part.mkv", 0.0, 1.0)
    assert not (tmp_path / "part.mkv").exists()


def test_a_video_that_cannot_be_searched_is_refused_at_the_start(tmp_path: Path) -> None:
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no encoder of H.264")
    path = tmp_path / "a.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"a\.h264: got a video that cannot be read at 0\.0 s"):
        EventVideos(EventRecording(tmp_path / "videos"), RULES, [str(path)])


@pytest.mark.parametrize("name", ["door:1.mp4", os.fsdecode(b"caf\xe9.mp4")])
def test_any_name_of_a_file_and_a_folder_can_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    video = _write_video(tmp_path / "plain.mp4", seconds=4)
    Path(name).write_bytes(video.read_bytes())
    for folder in ("rec:3", os.fsdecode(b"d\xe9j\xe0")):
        with EventVideos(EventRecording(Path(folder), pre=0, post=0), RULES, [name]) as deliver:
            deliver(replace(_event(1.0, 2.0), position=1.0, seconds=1.0))
        assert _numbers(Path(folder, "1000-1-a.mkv").rename("copy.mkv"), video) == list(range(10, 21))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    video = _write_video(tmp_path / "a.mp4", seconds=1)
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WriteError, match="could not write"),
        EventVideos(EventRecording(tmp_path / "file" / "x"), RULES, [str(video)]),
    ):
        pass
    with pytest.raises(InputError, match="unreadable"):
        record_part(str(tmp_path / "none.mp4"), tmp_path / "part.mkv", 0, 1)


def test_a_plan_needs_rules_and_a_place(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rules]]\nname = "a"\nclass = "dark"\nabove = 0.5\n')
    assert plan_events(None, [], [], []) is None
    with pytest.raises(InputError, match="no rules"):
        plan_events(None, ["events.jsonl"], [], [])
    with pytest.raises(InputError, match="no rules"):
        plan_events(None, [], [], [], EventRecording(tmp_path))
    with pytest.raises(InputError, match="no destination"):
        plan_events(path, [], ["video.mp4"], [])
    for places, videos, of in ((["{source}.jsonl"], None, "events"), ([], "{source}", "record_events")):
        with pytest.raises(InputError, match=r"got \{source\}, expected only \{time\} in braces here") as caught:
            plan_events(path, places, [], [], None if videos is None else EventRecording(tmp_path / videos))
        assert caught.value.parameters == (of,)
    for places, outputs in ([["events.jsonl"], []], [[], ["http://127.0.0.1:0"]]):
        plan = plan_events(path, places, outputs, [])
        assert plan is not None
        assert plan.rules.rules[0].class_name == "dark"
