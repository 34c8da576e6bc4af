"""What a run says about itself and its board, smoothing, and frames for a calibration."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.health import Health
from aselect_runtime.pipeline.board import power_mode, temperatures
from aselect_runtime.pipeline.heartbeat import Heartbeat
from aselect_runtime.pipeline.monitor import Monitor
from aselect_runtime.pipeline.notify import sd_notify, watchdog_seconds
from aselect_runtime.pipeline.temporal import PAUSE, TemporalAverage
from aselect_runtime.results import Arrays, Captured, Result, SourceInfo
from aselect_runtime.sinks import Write
from aselect_runtime.sinks.recording import recording
from tests.runtime.manifests import small_manifest

CAMERA = SourceInfo("camera", fps=10, live=True)


def _captured(second: float = 0.0) -> Captured:
    return Captured(np.zeros((24, 32, 3), np.uint8), 0, "frame", CAMERA, t_monotonic=1000 + second)


def test_temperatures_of_a_board(tmp_path: Path) -> None:
    for number, (name, value) in enumerate([("cpu-thermal", "51500\n"), ("gpu-thermal", "48000"), ("off", "")]):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(name + "\n")
        (zone / "temp").write_text(value)
    assert temperatures(tmp_path) == {"cpu": 51.5, "gpu": 48.0}
    assert temperatures(tmp_path / "nothing") == {}


def test_power_mode_of_a_jetson(tmp_path: Path) -> None:
    assert power_mode(tmp_path) is None
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0002 fmode:fanNull\n")
    assert power_mode(tmp_path) == "2"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nvpmodel.conf").write_text("< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n")
    assert power_mode(tmp_path) == "MAXN_SUPER"


def test_a_run_notifies_the_service_manager(seg_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not sd_notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        manifest, session = open_model(seg_model, "cpu")
        run_pipeline(manifest, session, ["synthetic://street?size=48x64&frames=3"])
        session.close()
        manager.settimeout(5)
        assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_the_watchdog_time_is_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_seconds() == 30
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_seconds() is None


@given(amount=st.floats(0.05, 1), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_smoothed_scores_are_the_exponential_average(amount: float, count: int, seed: int) -> None:
    answers = np.random.default_rng(seed).random((count, 4), np.float32)
    smoothing = TemporalAverage(amount, classes=4)
    expected = answers[0].astype(float)
    for number, scores in enumerate(answers):
        smoothed = smoothing(_captured(number / 10), {"scores": scores})["scores"]
        expected = expected + amount * (scores - expected)
        assert np.allclose(smoothed, expected, atol=1e-5)


def _seg(class_map: Frame, confidence: float) -> dict[str, np.ndarray]:
    return {"class_map": class_map, "confidence": np.full((6, 8), confidence, np.float32)}


def test_smoothing_removes_a_single_frame_and_keeps_a_lasting_change() -> None:
    road, car = np.zeros((24, 32), np.uint8), np.full((24, 32), 2, np.uint8)
    smoothing = TemporalAverage(0.4, classes=3)
    for number in range(5):
        smoothing(_captured(number / 10), _seg(road, 0.9))
    assert (smoothing(_captured(0.5), _seg(car, 0.9))["class_map"] == 0).all()
    assert (smoothing(_captured(0.6), _seg(car, 0.9))["class_map"] == 2).all()


def test_a_confident_frame_weighs_more() -> None:
    road, car = np.zeros((24, 32), np.uint8), np.full((24, 32), 2, np.uint8)
    smoothing = TemporalAverage(0.4, classes=3)
    smoothing(_captured(), _seg(road, 0.4))
    assert (smoothing(_captured(0.1), _seg(car, 0.9))["class_map"] == 2).all()


def test_smoothing_restarts_after_a_pause_and_weight_one_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    still = np.kron(rng.integers(0, 3, (6, 8)), np.ones((4, 4))).astype(np.uint8)
    other = np.zeros((24, 32), np.uint8)
    smoothing = TemporalAverage(0.1, classes=3)
    smoothing(_captured(), _seg(still, 0.9))
    assert (smoothing(_captured(PAUSE + 0.1), _seg(other, 0.9))["class_map"] == 0).all()
    exact = TemporalAverage(1.0, classes=3)
    exact(_captured(), _seg(other, 0.9))
    fine = rng.integers(0, 3, (24, 32)).astype(np.uint8)  # smaller than a cell
    np.testing.assert_array_equal(exact(_captured(0.1), _seg(fine, 0.9))["class_map"], fine)


def test_smoothing_refuses_an_invalid_weight() -> None:
    with pytest.raises(InputError, match="expected more than 0 and at most 1") as caught:
        TemporalAverage(0.0, classes=2)
    assert caught.value.parameters == ("smooth",)


def _result(number: int, pixels: Frame) -> Result:
    return Result(_captured(number), {}, small_manifest(), 0.0, {}, pixels=pixels)


def test_recording_keeps_few_and_different_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "frames"
    with recording(folder, limit=8) as write:
        for number in range(40):
            noise = rng.integers(0, 255, (24, 32, 3), np.uint8)
            noise[0, 0] = number
            write(_result(number, noise))
            write(_result(number, np.zeros((24, 32, 3), np.uint8)))  # too soon after the last
    kept = sorted(folder.glob("*.png"))
    assert 4 <= len(kept) <= 8
    seconds = [int(image[0, 0, 0]) for path in kept if (image := cv2.imread(str(path))) is not None]
    assert np.diff([*seconds, 40]).max() <= 8  # all over the run
    with recording(folder, limit=8) as write:  # goes on where the last run ended
        image = cv2.imread(str(kept[0]))
        assert image is not None
        write(_result(0, image))  # type: ignore[arg-type]
    assert sorted(folder.glob("*.png")) == kept


def test_recording_through_a_run_gives_model_inputs(seg_model: Path, tmp_path: Path) -> None:
    manifest, session = open_model(seg_model, "cpu")
    run_pipeline(manifest, session, ["synthetic://street?size=48x64&frames=60&fps=10"], record=tmp_path / "frames")
    session.close()
    images = [cv2.imread(str(path)) for path in sorted((tmp_path / "frames").glob("*.png"))]
    assert 2 <= len(images) <= 6
    assert {image.shape for image in images if image is not None} == {(24, 32, 3)}


def test_recording_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "family.jpg").touch()
    with pytest.raises(InputError, match=r"calibration\.txt"), recording(tmp_path):
        pass


def test_a_hung_session_shows_where_no_result_comes(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = pytest.importorskip("aselect_runtime.sinks.metrics")
    monkeypatch.setattr("aselect_runtime.pipeline.run.Heartbeat", lambda: Heartbeat(limit=0.2))
    monkeypatch.setattr("aselect_runtime.pipeline.surroundings.CHECK_INTERVAL", 0.05)
    monkeypatch.setattr("aselect_runtime.pipeline.monitor.SILENCE", 0.1)
    manifest, session = open_model(seg_model, "cpu")
    seen, figures = Event(), metrics.Metrics(manifest)
    told: list[Health] = []

    class Hanging:
        device = "hanging"
        calls = 0

        def infer(self, frames: Frame) -> Arrays:
            self.calls += 1
            if self.calls == 3:
                assert seen.wait(20)
            return session.infer(frames)

        def close(self) -> None: ...

    class Watching:
        def __call__(self, result: Result) -> None:
            figures.observe(result)

        def tell(self, health: Health) -> None:
            figures.tell(health)
            told.append(health)
            if health.stalled:
                text = figures.exposition().decode()
                assert "aselect_stalled_stages 1.0" in text
                assert "aselect_frames_total" in text
                seen.set()

    @contextmanager
    def sink() -> Iterator[Write]:
        yield Watching()

    summary = run_pipeline(manifest, Hanging(), ["synthetic://street?size=48x64&frames=5"], [sink()])
    assert summary.frames == 5
    assert "infer" in told[-1].stalled
    assert (told[-1].frames, told[-1].fps) == (2, 0.0)


def test_a_video_that_failed_and_then_ended_has_failed() -> None:
    """Otherwise a camera that never answers would be retried forever after a broken video."""
    monitor = Monitor(["a.mp4", "rtsp://camera"], Heartbeat())
    monitor.lost(0, "no video")
    monitor.ended(0)
    assert not monitor.all_failed
    monitor.lost(1, "no server")
    assert monitor.all_failed
    monitor.delivered(1)
    assert not monitor.all_failed
