"""Which decoder makes the frames: PyAV and GStreamer against OpenCV, the choice between them, and its reasons.

No NVIDIA decoder is needed: the pipelines and connections are those of the hardware, with decoders of the processor.
"""

from __future__ import annotations

import logging
import platform
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.codec.hwaccel import hwdevices_available

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import EngineError, InputError, MissingDependencyError
from aselect_runtime.frames import Frame
from aselect_runtime.pipeline.grab import Grab
from aselect_runtime.sources import hardware, open_source
from aselect_runtime.sources.av_capture import AvCapture
from aselect_runtime.sources.decoding import Decoding, hardware_fault, nvdec_fault
from aselect_runtime.sources.gstreamer_library import has_element
from aselect_runtime.sources.hardware import NVIDIA, Elements, Place, by_hardware, pipeline
from aselect_runtime.sources.opencv import made
from tests.runtime.rtsp_server import free_port, interpreter, serving

FRAMES = 20
LIBAV = Elements(
    MappingProxyType({"h264": "avdec_h264", "hevc": "avdec_h265", "mjpeg": "jpegdec"}),
    "videoconvert ! video/x-raw,format=BGRx",
)
"""Stands for NVIDIA's elements: the same pipelines, decoded by the processor."""

needs_elements = pytest.mark.skipif(
    not all(map(has_element, ("avdec_h264", "h264parse", "qtdemux", "matroskademux", "jpegparse", "videoconvert"))),
    reason="no GStreamer decoders here (apt install gstreamer1.0-libav, -plugins-good and -plugins-bad)",
)
needs_rtsp = pytest.mark.skipif(
    interpreter() is None, reason="no RTSP server here (apt install gir1.2-gst-rtsp-server-1.0 python3-gi)"
)
no_hardware = pytest.mark.skipif(hardware_fault() is None, reason="this machine has a hardware decoder")


def scene(number: int) -> Frame:
    """Four flat colours and a bar that moves, so that a lost, doubled or turned frame shows."""
    image = np.full((96, 128, 3), 40, np.uint8)
    image[:48, :64], image[48:, 64:] = (200, 60, 30), (20, 90, 220)
    image[:, 6 * number : 6 * number + 6] = 235
    return image


def video(path: Path, codec: str = "libx264", pixels: str = "yuv420p") -> Path:
    """FRAMES of the scene, with B frames where the codec has them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        stream.bit_rate = 2_000_000
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number), format="bgr24")))
        container.mux(stream.encode(None))
    return path


def bars(frames: list[Frame]) -> list[int]:
    """Which number each frame has, by its bar."""
    return [round(float(np.median(np.flatnonzero(frame[88:, :, 0].mean(0) > 225)) - 2.5) / 6) for frame in frames]


def through(capture: Any) -> tuple[list[Frame], list[float]]:
    frames, times = [], []
    for make in made(capture):
        frames.append(np.array(make()))
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    return frames, times


CODECS = [("mp4", "libx264", "yuv420p"), ("mkv", "libx265", "yuv420p"), ("avi", "mjpeg", "yuvj420p")]


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"), [*CODECS, ("mkv", "libx264", "yuv444p"), ("ts", "mpeg2video", "yuv420p")]
)
def test_pyav_gives_the_frames_of_opencv_and_their_times(tmp_path: Path, suffix: str, codec: str, pixels: str) -> None:
    path = video(tmp_path / f"video.{suffix}", codec, pixels)
    expected, _ = through(cv2.VideoCapture(str(path), cv2.CAP_FFMPEG))
    capture = AvCapture(str(path), "video", {})
    assert capture.get(cv2.CAP_PROP_FPS) == 25
    frames, positions = through(capture)
    assert bars(frames) == list(range(FRAMES))
    assert len(expected) == FRAMES
    assert max(np.abs(one.astype(int) - two).max() for one, two in zip(frames, expected, strict=True)) <= 2
    assert positions == pytest.approx([40 * number for number in range(FRAMES)], abs=1)


def test_a_10_bit_video_is_read(tmp_path: Path) -> None:
    frames, _ = through(AvCapture(str(video(tmp_path / "video.mkv", "libx265", "yuv420p10le")), "video", {}))
    assert bars(frames) == list(range(FRAMES))
    assert {frame.dtype for frame in frames} == {np.dtype(np.uint8)}


def test_packets_that_do_not_decode_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = video(tmp_path / "video.avi", "mjpeg", "yuvj420p")
    content = bytearray(path.read_bytes())
    starts = [at for at in range(len(content)) if content[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == FRAMES
    content[starts[5] : starts[6] - 16] = bytes(starts[6] - 16 - starts[5])
    path.write_bytes(content)
    frames, _ = through(AvCapture(str(path), "video", {}))
    assert bars(frames) == [number for number in range(FRAMES) if number != 5]
    assert "left out 1 packets that do not decode" in caplog.text


@pytest.mark.parametrize("name", ["nowhere.mp4", "text.mp4"])
def test_what_does_not_open_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"^video: got .*expected"):
        AvCapture(str(tmp_path / name), "video", {})


def test_a_file_of_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(InputError, match="stream without video"):
        AvCapture(str(path), "sound", {})


def test_pyav_lists_cuda_and_says_why_it_does_not_start() -> None:
    """The enumeration and the attempt are PyAV's own."""
    assert nvdec_fault(("libnosuch.so.7",)) == "no libnosuch.so.7 of an NVIDIA driver here"
    fault = nvdec_fault(())
    if "cuda" not in hwdevices_available():
        assert platform.machine() != "x86_64"  # PyPI's for ARM has none
        assert fault == "PyAV's FFmpeg was built without CUDA"
    elif hardware_fault() is None:
        assert fault is None
    else:
        assert fault is not None
        assert fault.startswith("FFmpeg got no CUDA device (")


@no_hardware
def test_cuda_without_a_gpu_is_refused_and_the_processor_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PyAV's real attempt at CUDA fails on the file, and every frame still arrives."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("aselect_runtime.sources.decoding.hardware_fault", lambda: None)
    path = video(tmp_path / "video.mp4")
    decoding = Decoding()
    with open_source(str(path), decoding) as source:
        assert bars([item.frame for item in source]) == list(range(FRAMES))
    assert "decoding videos on the processor: got " in caplog.text
    assert decoding.fault(str(path)) is not None
    with (
        pytest.raises(MissingDependencyError, match="got no hardware decoder for it"),
        open_source(str(path), Decoding("hardware")),
    ):
        pass


@no_hardware
def test_a_codec_that_nvdec_does_not_know_stays_with_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("aselect_runtime.sources.decoding.hardware_fault", lambda: None)
    path = video(tmp_path / "video.mkv", "ffv1")
    with open_source(str(path), Decoding()) as source:
        assert bars([item.frame for item in source]) == list(range(FRAMES))
    assert "decoding videos on the processor: got no codec that NVDEC decodes" in caplog.text
    with (
        pytest.raises(MissingDependencyError, match="got no codec that NVDEC decodes"),
        open_source(str(path), Decoding("hardware")),
    ):
        pass


@no_hardware
def test_the_choice_is_said_once_with_its_reason(
    seg_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    paths = [str(video(tmp_path / f"{number}.mp4")) for number in range(3)]
    manifest, session = open_model(seg_model, "cpu")
    try:
        assert run_pipeline(manifest, session, paths).frames == 3 * FRAMES
        said = [record.message for record in caplog.records if record.message.startswith("decoding")]
        assert said == [f"decoding videos on the processor: {hardware_fault()}"]
        caplog.clear()
        run_pipeline(manifest, session, paths[:1], decode="software")
        assert "decoding videos on the processor: software was asked for" in caplog.text
        with pytest.raises(MissingDependencyError, match="got no hardware decoder") as caught:
            run_pipeline(manifest, session, paths[:1], decode="hardware")
        assert caught.value.parameters == ("decode",)
        with pytest.raises(InputError, match="got decode 'gpu', expected one of auto, software, hardware"):
            run_pipeline(manifest, session, paths[:1], decode="gpu")  # type: ignore[arg-type]
    finally:
        session.close()


def test_hardware_that_hangs_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aselect_runtime.sources.decoding.hardware_fault", lambda: None)
    decoding = Decoding()
    assert decoding.fault("camera") is None
    with decoding.trying("camera"):
        assert decoding.fault("camera") == "the hardware did not answer in time"
        assert decoding.fault("another") is None
    assert decoding.fault("camera") is None
    decoding.refuse("camera", "it failed")
    assert decoding.fault("camera") == "it failed"


RTSP = 'rtspsrc location="rtsp://u:p@camera/1" protocols=tcp latency=100 ! '
NEWEST = "nvvidconv ! video/x-raw,format=BGRx ! appsink name=aselect drop=true max-buffers=1 sync=false"
EVERY = "nvvidconv ! video/x-raw,format=BGRx ! appsink name=aselect drop=false max-buffers=4 sync=false"


@pytest.mark.parametrize(
    ("uri", "codec", "expected"),
    [
        ("rtsp://u:p@camera/1", "h264", f"{RTSP}rtph264depay ! h264parse ! nvv4l2decoder ! {NEWEST}"),
        ("rtsp://u:p@camera/1", "hevc", f"{RTSP}rtph265depay ! h265parse ! nvv4l2decoder ! {NEWEST}"),
        ("rtsp://u:p@camera/1", "mjpeg", f"{RTSP}rtpjpegdepay ! jpegparse ! nvv4l2decoder mjpeg=true ! {NEWEST}"),
        ("/a/b.MP4", "h264", f'filesrc location="/a/b.MP4" ! qtdemux ! h264parse ! nvv4l2decoder ! {EVERY}'),
        ("/a.mkv", "hevc", f'filesrc location="/a.mkv" ! matroskademux ! h265parse ! nvv4l2decoder ! {EVERY}'),
        ("/a.avi", "mjpeg", f'filesrc location="/a.avi" ! avidemux ! jpegparse ! nvv4l2decoder mjpeg=true ! {EVERY}'),
        ("/a.h264", "h264", f'filesrc location="/a.h264" ! h264parse ! nvv4l2decoder ! {EVERY}'),
        ('/a"\\.ts', "h264", f'filesrc location="/a\\"\\\\.ts" ! tsdemux ! h264parse ! nvv4l2decoder ! {EVERY}'),
    ],
)
def test_the_pipelines_of_a_jetson(uri: str, codec: str, expected: str) -> None:
    assert pipeline(uri, codec, NVIDIA, live=uri.startswith("rtsp")) == expected


@pytest.mark.parametrize(
    ("uri", "codec", "told"),
    [
        ("rtsp://camera/1", "vp8", "got vp8, expected one of h264, hevc, mjpeg"),
        ("rtsps://camera/1", "h264", "got the scheme rtsps"),
        ("udp://@:5000", "h264", "got the scheme udp"),
        ("/a.wmv", "h264", "got a .wmv file"),
    ],
)
def test_what_a_jetson_leaves_to_the_processor(uri: str, codec: str, told: str) -> None:
    with pytest.raises(EngineError, match=told):
        pipeline(uri, codec, NVIDIA, live="://" in uri)


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch) -> Callable[[Elements], None]:
    """A machine with a Jetson's pipelines, whose decoders are given."""

    def with_elements(elements: Elements) -> None:
        monkeypatch.setattr("aselect_runtime.sources.decoding.hardware_fault", lambda: None)
        monkeypatch.setattr(hardware, "jetson", lambda: True)
        monkeypatch.setattr(hardware, "NVIDIA", elements)

    return with_elements


@needs_elements
@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"), [*CODECS, ("mkv", "libx264", "yuv420p"), ("ts", "libx264", "yuv420p")]
)
def test_a_file_through_the_pipelines_of_a_jetson(
    tmp_path: Path,
    jetson: Callable[[Elements], None],
    caplog: pytest.LogCaptureFixture,
    suffix: str,
    codec: str,
    pixels: str,
) -> None:
    caplog.set_level(logging.INFO)
    jetson(LIBAV)
    with open_source(str(video(tmp_path / f"vi deo.{suffix}", codec, pixels)), Decoding("hardware")) as source:
        captured = list(source)
    assert bars([item.frame for item in captured]) == list(range(FRAMES))
    assert np.abs(captured[3].frame.astype(int) - scene(3))[8:40, 70:120].max() <= 12
    assert source.info.fps == 25
    assert captured[-1].position == pytest.approx((FRAMES - 1) / 25, abs=0.05)
    assert "by nvv4l2decoder: it made the first frame" in caplog.text


@needs_elements
def test_a_decoder_that_makes_no_frame_is_left_for_the_processor(
    tmp_path: Path, jetson: Callable[[Elements], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    jetson(Elements(MappingProxyType({"h264": "identity error-after=1"}), "videoconvert"))
    decoding = Decoding()
    path = video(tmp_path / "video.mp4")
    for _ in range(2):
        with open_source(str(path), decoding) as source:
            assert bars([item.frame for item in source]) == list(range(FRAMES))
    said = [record.message for record in caplog.records if record.message.startswith("decoding")]
    assert len(said) == 1
    assert "decoding videos on the processor" in said[0]
    assert str(decoding.fault(str(path))) in said[0]


def test_a_turned_video_is_left_to_the_processor(tmp_path: Path, jetson: Callable[[Elements], None]) -> None:
    """A telephone's portrait video: the matrix of its track says 90 degrees, which only OpenCV applies."""
    jetson(LIBAV)
    path = video(tmp_path / "video.mp4")
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    decoding = Decoding()
    with open_source(str(path), decoding) as source:
        shapes = {item.frame.shape for item in source}
    assert shapes == {(128, 96, 3)}
    assert "is to be turned by" in str(decoding.fault(str(path)))


@needs_elements
@needs_rtsp
def test_an_rtsp_camera_through_the_pipelines_of_a_jetson(
    tmp_path: Path, jetson: Callable[[Elements], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    jetson(LIBAV)
    port = free_port()
    secret = {"RTSP_USER": "joe", "RTSP_PASSWORD": "hunter2"}
    path = video(tmp_path / "video.mp4")
    with serving(port, path, secret):
        source = open_source(f"rtsp://joe:hunter2@127.0.0.1:{port}/live", Decoding("hardware"))
        with source:
            first = next(iter(source))
    assert first.frame.shape == (96, 128, 3)
    assert "decoding H.264 by nvv4l2decoder" in caplog.text
    assert "hunter2" not in caplog.text


@needs_rtsp
@no_hardware
def test_frames_of_a_stream_that_give_way_are_never_converted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made: list[av.VideoFrame] = []
    convert = AvCapture._bgr

    def counting(capture: AvCapture, frame: av.VideoFrame) -> Frame:
        made.append(frame)
        return convert(capture, frame)

    monkeypatch.setattr(AvCapture, "_bgr", counting)
    port = free_port()
    with serving(port):
        grab = Grab(lambda: open_source(f"rtsp://127.0.0.1:{port}/live"))
        deadline = time.monotonic() + 20
        while grab.dropped < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert made == []
        taken = grab.take(5)
        grab.abandon()
    assert taken is not None
    assert taken[0].frame.shape == (120, 160, 3)
    assert len(made) == 1
    assert f"decoding MJPEG on the processor: {hardware_fault()}" in caplog.text


def test_a_camera_that_is_not_there_is_no_fault_of_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aselect_runtime.sources.decoding.hardware_fault", lambda: None)
    decoding = Decoding()
    place = Place(f"tcp://127.0.0.1:{free_port()}", "camera", {}, (5, 5), live=True)
    if nvdec_fault(()) is None:
        with pytest.raises(InputError, match="got no server at that port"):
            by_hardware(place, decoding)
        assert decoding.fault("camera") is None
