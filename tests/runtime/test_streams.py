"""Live streams against real servers and a camera with faults: reconnects, fairness, leaks, secrets."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.pipeline import grab
from aselect_runtime.pipeline.feed import Feed
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.pipeline.timing import RunSummary
from aselect_runtime.results import Arrays, Result
from tests.runtime import faulty
from tests.runtime.rtsp_server import free_port, interpreter, serving

QUICK = Patience(connect=5.0, grab=0.4, first_delay=0.02, longest_delay=0.1)
faulty.register()
FAULT = "test://fault?fps=200"

needs_rtsp = pytest.mark.skipif(
    interpreter() is None, reason="no GStreamer RTSP server here (apt install gir1.2-gst-rtsp-server-1.0 python3-gi)"
)


def _run(model: Path, inputs: list[str], outputs: list[str] | None = None, **options: Any) -> RunSummary:
    manifest, session = open_model(model, "cpu")
    try:
        return run_pipeline(manifest, session, inputs, outputs or [], **{"patience": QUICK, **options})
    finally:
        session.close()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _resources() -> tuple[int, int]:
    """Threads and open descriptors of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@needs_rtsp
def test_an_rtsp_server_that_is_killed_and_restarted(
    seg_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    secret = {"RTSP_USER": "joe", "RTSP_PASSWORD": "hunter2"}
    uri = f"rtsp://joe:hunter2@127.0.0.1:{port}/live?token=s3cret"
    with serving(port, environment=secret) as first:
        seen: list[Result] = []
        stop = threading.Event()
        manifest, session = open_model(seg_model, "cpu")
        summaries: list[RunSummary] = []
        options: dict[str, Any] = {"stop": stop, "on_frame": seen.append, "patience": QUICK}
        run = partial(run_pipeline, manifest, session, [uri], [f"{tmp_path}/{{source}}.jsonl"], **options)
        thread = threading.Thread(target=lambda: summaries.append(run()))
        thread.start()
        _until(lambda: len(seen) > 5)
        before = _resources()
        first.kill()
        first.wait()
        _until(lambda: bool(caplog.records))
    count = len(seen)
    with serving(port, environment=secret):
        _until(lambda: len(seen) > count + 5)
        after = _resources()
        stop.set()
        thread.join(20)
    session.close()
    (summary,) = summaries
    assert summary.reconnects == 1
    assert summary.frames == len(seen)
    assert [result.captured.index for result in seen] == sorted({result.captured.index for result in seen})
    assert after == before
    (path,) = tmp_path.iterdir()
    told = "\n".join([caplog.text, path.name, path.read_text(), json.dumps(summary.to_dict())])
    assert "127.0.0.1" in told
    assert not any(word in told for word in ("joe", "hunter2", "s3cret"))


def _until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class _Motion(BaseHTTPRequestHandler):
    """A camera that sends JPEGs as multipart, eight to a connection, of which the second half has another size."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(8):
            image = np.full((48, 64, 3) if number < 4 else (96, 64, 3), 20 * number, np.uint8)
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            self.wfile.flush()
            time.sleep(0.02)

    def log_message(self, *_: object) -> None: ...


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients that go away are no news."""


@contextmanager
def _http(handler: Any) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_video_over_http_delivers_every_frame(seg_model: Path, clip: Path) -> None:
    with _http(partial(_Files, directory=str(clip.parent))) as address:
        summary = _run(seg_model, [f"{address}/{clip.name}"])
    assert (summary.frames, summary.dropped, summary.reconnects) == (12, 0, 0)


def test_an_http_camera_is_live_and_connected_again(seg_model: Path, tmp_path: Path) -> None:
    with _http(_Motion) as address:
        names = [f"{tmp_path}/a.mp4", f"{tmp_path}/a.jsonl", f"{tmp_path}/masks/", f"{tmp_path}/a.png"]
        summary = _run(seg_model, [f"{address}/video.mjpg"], names, max_frames=20)
    assert summary.reconnects >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.mp4", "a.png", "masks"]


def test_a_read_that_hangs_is_abandoned(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grab, "CLOSE_TIMEOUT", 0.05)
    before = threading.active_count()
    patience = Patience(connect=2.0, grab=0.2, first_delay=0.02, longest_delay=0.02)
    summary = _run(seg_model, [f"{FAULT}&stall=0.1&stall_seconds=1"], max_frames=20, patience=patience)
    assert summary.reconnects >= 1
    _until(lambda: threading.active_count() == before)  # the abandoned reads came back, and their threads ended


def test_reads_that_hang_for_good_end_the_stream_and_keep_the_outputs(
    seg_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grab, "CLOSE_TIMEOUT", 0.05)
    patience = Patience(connect=0.5, grab=0.05, first_delay=0.01, longest_delay=0.01)
    uri = f"{FAULT}&stall=1&stall_seconds=3"
    with pytest.raises(InputError, match=r"hang permanently.*kept: .*a\.mp4"):
        _run(seg_model, [uri], [f"{tmp_path}/a.mp4"], patience=patience)
    assert (tmp_path / "a.mp4").stat().st_size


def test_a_camera_that_changes_its_resolution_suits_every_output(seg_model: Path, tmp_path: Path) -> None:
    names = [f"{tmp_path}/a.mp4", f"{tmp_path}/a.jsonl", f"{tmp_path}/masks/", f"{tmp_path}/a.png"]
    uri = f"{FAULT}&resize=0.3&corrupt=0.3&frames=40"
    summary = _run(seg_model, [uri], names, smooth=0.5)
    assert {sink.state for sink in summary.sinks} == {"working"}
    masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (tmp_path / "masks").glob("*.png")]
    assert len({mask.shape for mask in masks if mask is not None}) > 1
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).isOpened()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dead_camera_does_not_hold_up_the_others(
    write_model: Callable[..., Path], tmp_path: Path, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, session = open_model(write_model(tmp_path / "model", batch=batch), "cpu")
    dead = f"http://127.0.0.1:{free_port()}/video"
    inputs = [f"{FAULT}&seed=1&frames=100000", dead, f"{FAULT}&seed=2&frames=100000"]
    out, stop, order = tmp_path / "out", threading.Event(), list[int]()

    class Slow:  # slower than the cameras, so that each always has a frame waiting
        device = "cpu"

        def infer(self, frames: Frame) -> Arrays:
            time.sleep(0.05)
            return session.infer(frames)

        def close(self) -> None:
            session.close()

    def note(result: Result) -> None:
        order.append(result.stream)
        if min(order.count(0), order.count(2)) >= 15 and dead in caplog.text:
            stop.set()

    outputs = [f"{out}/video.mkv", f"{out}/all.jsonl"]
    options = {"patience": QUICK, "stop": stop, "on_frame": note, "max_seconds": 60}
    summary = run_pipeline(manifest, Slow(), inputs, outputs, **options)  # type: ignore[arg-type]
    session.close()
    assert summary.sources[1].frames == 0
    together = order[max(order.index(0), order.index(2)) :]  # a machine that is busy may start one camera late
    assert min(together.count(0), together.count(2)) >= len(together) // 3  # in turns
    assert summary.sources[1].fault
    assert {line["source"] for line in _lines(out / "all.jsonl")} == {inputs[0], inputs[2]}
    assert {path.name for path in out.iterdir()} == {"video-0.mkv", "video-2.mkv", "all.jsonl"}
    assert summary.outputs == (f"{out}/video-0.mkv", f"{out}/video-2.mkv", f"{out}/all.jsonl")


def test_inputs_that_all_fail_at_the_start_end_the_run(seg_model: Path, tmp_path: Path) -> None:
    dead = [f"rtsp://joe:hunter2@127.0.0.1:{free_port()}/{number}" for number in range(2)]
    with pytest.raises(InputError, match="got no server") as caught:
        _run(seg_model, dead, [f"{tmp_path}/a.mp4"])
    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_camera_is_connected_again_and_a_still_scene_is_not(seg_model: Path) -> None:
    class Still(BaseHTTPRequestHandler):
        connections = 0

        def do_GET(self) -> None:
            Still.connections += 1
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 99, np.uint8))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            for _ in range(1000):
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                time.sleep(0.005)

        def log_message(self, *_: object) -> None: ...

    patience = Patience(first_delay=0.01, longest_delay=0.01, frozen=15)
    with _http(Still) as address:
        summary = _run(seg_model, [f"{address}/still"], max_frames=80, patience=patience)
    assert "same image" in summary.sources[0].fault
    assert summary.reconnects == 1
    assert Still.connections == 2


def test_a_feed_serves_its_lanes_in_turns() -> None:
    feed: Feed[str] = Feed([False, False, True], depth=9)
    for number in range(3):
        feed.put(0, f"a{number}")
    feed.put(1, "b0")
    for number in range(4):
        feed.put(2, f"c{number}")
    taken = [feed.take(1)[0] for _ in range(5)]
    assert taken == ["a0", "b0", "c3", "a1", "a2"]
    assert feed.dropped(2) == 3
    for lane in range(3):
        feed.close(lane)
    assert feed.take(1) == []


def test_a_feed_of_videos_waits_for_a_full_batch_and_a_live_one_does_not() -> None:
    feed: Feed[int] = Feed([False], depth=9)
    batches: list[list[int]] = []
    thread = threading.Thread(target=lambda: batches.extend([feed.take(3), feed.take(3)]))
    thread.start()
    for number in range(4):
        feed.put(0, number)
    feed.close(0)
    thread.join(5)
    assert batches == [[0, 1, 2], [3]]
    live: Feed[int] = Feed([True, True], depth=9)
    live.put(1, 7)
    assert live.take(3) == [7]


def test_losses_are_logged_once(seg_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    dead = f"http://127.0.0.1:{free_port()}/video"
    stop, after = threading.Event(), list[int]()

    def note(result: Result) -> None:  # the camera is tried again some times
        if dead in caplog.text:
            after.append(result.stream)
        if len(after) == 40:
            stop.set()

    _run(seg_model, [f"{FAULT}&frames=100000", dead], on_frame=note, stop=stop, max_seconds=60)
    assert len(after) >= 40
    assert len([record for record in caplog.records if dead in record.getMessage()]) == 1


def test_a_thread_that_cannot_start_is_a_lost_camera(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = threading.Thread.start, list[str]()

    def full(self: threading.Thread) -> None:
        if self.name == "grab" and not refused:
            refused.append(self.name)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", full)
    manifest, session = open_model(seg_model, "cpu")
    inputs = [f"{FAULT}&seed=1&frames=100000", f"{FAULT}&seed=2&frames=100000"]
    summary = run_pipeline(manifest, session, inputs, patience=QUICK, max_frames=60)
    assert summary.frames == 60
    assert refused
