"""How an overlay video keeps the time of a live source, and what encodes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.frames import Frame
from aselect_runtime.records import Manifest
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.sinks import encoders, open_sink
from tests.runtime.manifests import small_manifest

CAMERA = SourceInfo("camera", fps=10, live=True)
FILM = SourceInfo("video.mp4", fps=10)


def _video(model: Path, path: Path, frames: Sequence[Captured]) -> int:
    """How many images the video of these frames has."""
    answer = {"class_map": np.zeros((24, 32), np.uint8)}
    with open_sink(str(path), Manifest.load(model / "manifest.json")) as write:
        for captured in frames:
            write(Result(captured, answer, small_manifest(), 0.0, {}))
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return count


def _captured(source: SourceInfo, monotonic: float, unix: float = 0.0) -> Captured:
    return Captured(np.zeros((24, 32, 3), np.uint8), 0, "frame", source, unix, monotonic)


@pytest.mark.parametrize(
    ("arrivals", "images"),
    [
        ([0, 0.1, 0.2, 0.3], 4),
        ([0, 0.11, 0.19, 0.31], 4),  # a camera's jitter
        ([0, 0.04, 0.08, 0.12, 0.16, 0.2], 3),  # faster than it said
        ([0, 0.3, 0.6], 7),  # frames were dropped: the video still lasts as long
        ([0, 3600, 3600.1], 12),  # a pause counts as one second, once
    ],
)
def test_a_live_video_lasts_as_long_as_its_source(
    seg_model: Path, tmp_path: Path, arrivals: list[float], images: int
) -> None:
    frames = [_captured(CAMERA, 500.0 + second) for second in arrivals]
    assert _video(seg_model, tmp_path / "video.mp4", frames) == images


def test_setting_the_clock_does_not_stretch_a_live_video(seg_model: Path, tmp_path: Path) -> None:
    unix = [0.0, 0.1, 1.8e9, 5.0]
    frames = [_captured(CAMERA, number / 10, time) for number, time in enumerate(unix)]
    assert _video(seg_model, tmp_path / "video.mp4", frames) == 4


def test_a_camera_after_a_file_starts_its_own_time(seg_model: Path, tmp_path: Path) -> None:
    frames = [_captured(FILM, second / 1000) for second in range(20)]  # decoded much faster than it plays
    frames += [_captured(CAMERA, 0.02 + second / 10) for second in range(3)]
    assert _video(seg_model, tmp_path / "video.mp4", frames) == 23


RATES = [28.916, 4290000 / 143183, 14.999925, 30000 / 1001, 25.0, 1000.0, 1 / 3600]


@pytest.mark.parametrize("fps", RATES)
def test_a_video_of_any_rate_can_be_written(seg_model: Path, tmp_path: Path, fps: float) -> None:
    source = SourceInfo("phone.mp4", fps)
    path = tmp_path / "video.mp4"
    assert _video(seg_model, path, [_captured(source, number) for number in range(4)]) == 4
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-4)
    capture.release()


@given(st.floats(1 / 3600, 1000))
def test_the_stated_rate_fits_into_16_bits_and_is_near(fps: float) -> None:
    mpeg4 = pytest.importorskip("aselect_runtime.sinks.mpeg4")
    rate = mpeg4._ratio(fps)
    assert rate.numerator < 1 << 16
    assert abs(float(rate) / fps - 1) < 2 / 65535


def test_what_the_encoder_cannot_do_is_an_error_of_one_line(seg_model: Path, tmp_path: Path) -> None:
    mpeg4 = pytest.importorskip("aselect_runtime.sinks.mpeg4")
    writer = mpeg4.Mpeg4Writer(tmp_path / "video.mp4", 25.0, (8, 8192 * 2))  # wider than MPEG-4's 13 bits
    with pytest.raises(WriteError, match=r"video\.mp4: got an error of FFmpeg \(.+\), expected .+; write \.jsonl"):
        writer.write(np.zeros((8, 8192 * 2, 3), np.uint8))
    with suppress(WriteError):
        writer.release()
    for live in (False, True):
        with pytest.raises(InputError, match=r"camera: got a source of 0 frames per second, expected more than 0"):
            _video(seg_model, tmp_path / "none.mp4", [_captured(SourceInfo("camera", 0, live), 0.0)])


def _codec(path: Path) -> str:
    capture = cv2.VideoCapture(str(path))
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    capture.release()
    return code.to_bytes(4, "little").decode()


def _absent(path: Path, *_: object) -> cv2.VideoWriter:
    """An encoder that is not there, but has left its traces in the file."""
    path.write_bytes(b"remains of a try")
    return cv2.VideoWriter()


def _mjpeg(path: Path, fps: float, size: encoders.Size) -> cv2.VideoWriter:
    return cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, size[::-1])


class _Mute:
    """Opens and takes frames, and writes nothing."""

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def write(self, _: Frame) -> None: ...

    def release(self) -> None: ...


def _mute(*_: object) -> cv2.VideoWriter:
    return cast("cv2.VideoWriter", _Mute())


@pytest.mark.parametrize("start", [_absent, _mute])
def test_an_encoder_that_does_not_work_is_passed_over(
    seg_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., cv2.VideoWriter]
) -> None:
    software = list(encoders.candidates())[-1]
    monkeypatch.setattr(encoders, "candidates", lambda: iter([encoders.Encoder("broken", start), software]))
    assert _video(seg_model, tmp_path / "video.mp4", [_captured(FILM, 0)] * 12) == 12
    assert _codec(tmp_path / "video.mp4") in {"mp4v", "FMP4"}


def test_the_first_encoder_that_works_is_taken_and_its_trial_is_not_in_the_video(
    seg_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hardware = [encoders.Encoder("hardware", _mjpeg), encoders.Encoder("another", _absent)]
    monkeypatch.setattr(encoders, "candidates", lambda: iter(hardware))
    caplog.set_level("DEBUG", "aselect_runtime")
    assert _video(seg_model, tmp_path / "video.mkv", [_captured(FILM, 0)] * 12) == 12
    assert _codec(tmp_path / "video.mkv").upper().startswith("MJP")
    assert "by hardware" in caplog.text


def test_without_any_encoder_there_is_an_error_and_no_file(
    seg_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "candidates", lambda: iter([encoders.Encoder("absent", _absent, hardware=False)]))
    with pytest.raises(WriteError, match="expected an OpenCV with FFmpeg"):
        _video(seg_model, tmp_path / "video.mp4", [_captured(FILM, 0)])
    assert list(tmp_path.iterdir()) == []


def test_hardware_is_tried_before_the_cpu_where_it_may_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> list[str]:
        return [encoder.name.split()[1] for encoder in encoders.candidates()]

    monkeypatch.setattr(encoders, "RENDER_NODES", tmp_path)
    monkeypatch.setattr(encoders, "has_gstreamer", lambda: False)
    assert names() == ["on"]
    (tmp_path / "renderD128").touch()
    assert names() == ["graphics", "on"]
    monkeypatch.setattr(encoders, "has_gstreamer", lambda: True)
    assert names() == ["Jetson's", "graphics", "on"]


def test_encoders_that_this_machine_lacks_do_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "renderD128").touch()
    monkeypatch.setattr(encoders, "RENDER_NODES", tmp_path)
    monkeypatch.setattr(encoders, "has_gstreamer", lambda: True)
    path = tmp_path / 'a "b" \\c.mp4'
    writer = encoders.start(path, 25, (48, 64))
    assert writer is not None
    for _ in range(7):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert encoders.count_frames(path) == 7


def test_a_full_disk_is_noticed_while_it_runs_and_the_frames_so_far_can_be_played(
    seg_model: Path, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk("8m")
    monkeypatch.setattr("aselect_runtime.sinks.space.EVERY", 0.0)
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    answer = {"class_map": np.zeros((24, 32), np.uint8)}
    written = 0
    manifest = Manifest.load(seg_model / "manifest.json")
    with (  # noqa: PT012 - the block is what fails
        pytest.raises(WriteError, match=r"the disk is full after \d+ frames, which are kept|No space left on device"),
        open_sink(str(disk / "video.mp4"), manifest) as write,
    ):
        for written in range(2000):
            frame = np.roll(noise, 7 * written, 1)
            write(Result(Captured(frame, 0, "frame", FILM), answer, small_manifest(), 0.0, {}))
    assert [path.name for path in disk.iterdir()] == ["video.mp4"]
    capture = cv2.VideoCapture(str(disk / "video.mp4"))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    assert 5 < count <= written < 1999
