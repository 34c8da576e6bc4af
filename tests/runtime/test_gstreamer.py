"""GStreamer pipelines, run for real where GStreamer is installed: their frames, their ends and their errors."""

from __future__ import annotations

import json
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import IncompleteError, InputError
from aselect_runtime.pipeline.grab import Grab
from aselect_runtime.pipeline.output_plan import short_names
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.pipeline.timing import RunSummary
from aselect_runtime.sources import open_source
from aselect_runtime.sources.gstreamer import elements, is_finite, pipeline_of
from aselect_runtime.sources.gstreamer_library import Sample, has_element
from tests.runtime.rtsp_server import free_port, interpreter, serving

WORD = st.text("abcXYZ019_.-", min_size=1, max_size=12)
QUICK = Patience(connect=25.0, grab=5.0, first_delay=0.02, longest_delay=0.1)

needs_gstreamer = pytest.mark.skipif(
    not (has_element("videotestsrc") and has_element("videoconvert")),
    reason="no GStreamer here (apt install gstreamer1.0-plugins-base)",
)
needs_rtsp = pytest.mark.skipif(
    interpreter() is None or not all(map(has_element, ("rtspsrc", "rtpjpegdepay", "jpegdec"))),
    reason="no RTSP here (apt install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good)",
)


def _run(model: Path, inputs: list[str], outputs: list[str], **options: Any) -> RunSummary:
    manifest, session = open_model(model, "cpu")
    try:
        return run_pipeline(manifest, session, inputs, outputs, **{"patience": QUICK, **options})
    finally:
        session.close()


def _test_image(caps: str, number: int = 3) -> str:
    return f"videotestsrc num-buffers={number} pattern=red ! video/x-raw,{caps}"


@needs_gstreamer
@pytest.mark.parametrize("pixels", ["BGR", "BGRx", "RGB", "RGBA", "GRAY8", "I420", "NV12"])
@pytest.mark.parametrize("width", [64, 65, 66])
def test_every_pixel_format_and_width_gives_the_same_image(pixels: str, width: int) -> None:
    """Red is (0, 0, 255) as BGR; its luma is 16 + 0.299 * 219. Rows of odd widths are padded in memory."""
    with open_source(_test_image(f"format={pixels},width={width},height=48,framerate=10/1")) as source:
        captured = list(source)
    assert source.info.fps == 10
    assert not source.info.live
    assert len(captured) == 3
    expected = (81, 81, 81) if pixels == "GRAY8" else (0, 0, 255)
    for item in captured:
        assert item.frame.shape == (48, width, 3)
        assert item.frame.dtype == np.uint8
        assert np.abs(item.frame.astype(int) - expected).max() <= 3
    assert [item.position for item in captured] == [0.0, 0.1, 0.2]


@needs_gstreamer
@pytest.mark.parametrize("pixels", ["BGR", "BGRA", "RGB", "RGBx", "GBR"])
def test_an_appsink_of_the_users_own_is_kept(pixels: str) -> None:
    head = "videotestsrc num-buffers=1 pattern=smpte ! video/x-raw,width=70,height=40,format="
    with open_source(f"{head}BGR") as source:
        (plain,) = [item.frame for item in source]
    caps = "" if pixels == "GBR" else f" caps=video/x-raw,format={pixels}"
    with open_source(f"{head}{pixels} ! appsink name=mine sync=false{caps}") as source:
        (own,) = [item.frame for item in source]
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) > 7
    assert np.array_equal(own, plain)


@needs_gstreamer
@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("nosuchcamera ! videoconvert", "got no GStreamer element nosuchcamera here, expected it; install gstreamer1"),
        ("videotestsrc ! avdec_nosuch ! videoconvert", "element avdec_nosuch here.*install gstreamer1.0-libav"),
        ("filesrc location=/no/such.h264 ! decodebin ! videoconvert", "does not start"),
        ("videotestsrc nosuch=1 ! videoconvert", 'got no pipeline \\(no property "nosuch"'),
        ("videotestsrc num-buffers=1 ! appsink caps=video/x-raw,format=NV12", "got frames of video/x-raw NV12"),
        (
            "videotestsrc num-buffers=1 ! jpegenc ! appsink caps=image/jpeg",
            "got frames of image/jpeg, expected video/x",
        ),
        ("videotestsrc num-buffers=0 ! identity eos-after=1", "got no frame"),
    ],
)
def test_what_does_not_run_says_what_is_wrong(pipeline: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught, open_source(pipeline) as source:
        list(source)
    assert "\n" not in str(caught.value)


@needs_gstreamer
@pytest.mark.skipif(has_element("nvarguscamerasrc"), reason="a Jetson has it")
def test_a_csi_camera_without_its_element_says_what_to_install(seg_model: Path) -> None:
    with pytest.raises(InputError, match=r"nvarguscamerasrc, nvvidconv here.*install nvidia-l4t-gstreamer"):
        _run(seg_model, ["csi://0"], [], max_seconds=30)


@needs_gstreamer
def test_a_failure_shows_no_password() -> None:
    pipeline = "filesrc location=/no/rtsp://joe:hunter2@camera/x ! decodebin ! videoconvert"
    with pytest.raises(InputError) as caught, open_source(pipeline):
        pass
    assert "hunter2" not in str(caught.value)


@needs_gstreamer
def test_two_finite_pipelines_are_two_finished_videos(seg_model: Path, tmp_path: Path) -> None:
    """Every frame has its result, nothing is a lost camera, and each has a name of its own."""
    caps = "video/x-raw,width=64,height=48"
    inputs = [
        f"videotestsrc num-buffers=50 pattern=ball ! {caps} ! videoconvert",
        f"videotestsrc num-buffers=20 ! {caps} ! appsink",
    ]
    summary = _run(seg_model, inputs, [f"{tmp_path}/lines.jsonl"])
    assert summary.frames == 70
    assert [source.frames for source in summary.sources] == [50, 20]
    assert summary.reconnects == summary.dropped == 0
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 70


@needs_gstreamer
def test_a_pipeline_that_fails_midway_is_no_finished_video(seg_model: Path, tmp_path: Path) -> None:
    video = tmp_path / "half.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for grey in range(0, 200, 10):
        writer.write(np.full((48, 64, 3), grey, np.uint8))
    writer.release()
    failing = f"filesrc location={video} ! avidemux ! jpegdec ! identity error-after=8 ! videoconvert"
    assert is_finite(failing)
    with pytest.raises(IncompleteError, match=r"the pipeline failed \(Failed after iterations"):
        _run(seg_model, [failing], [f"{tmp_path}/lines.jsonl"])
    assert 0 < len((tmp_path / "lines.jsonl").read_text().splitlines()) < 9


@needs_gstreamer
def test_a_live_pipeline_that_ends_is_a_lost_camera(seg_model: Path) -> None:
    """A camera that says goodbye comes back; only the newest frame is made."""
    stop = threading.Event()
    seen: list[int] = []

    def note(result: Any) -> None:
        seen.append(result.captured.index)
        if len(seen) == 12:
            stop.set()

    ends = (
        "videotestsrc is-live=true pattern=ball ! video/x-raw,width=64,height=48,framerate=50/1 ! identity eos-after=6"
    )
    summary = _run(seg_model, [f"{ends} ! videoconvert"], [], on_frame=note, stop=stop, max_seconds=60)
    assert summary.reconnects >= 1
    assert seen == sorted(set(seen))


@needs_rtsp
def test_two_cameras_through_rtspsrc(seg_model: Path, tmp_path: Path) -> None:
    port = free_port()
    with serving(port):
        camera = f"rtspsrc location=rtsp://joe:hunter2@127.0.0.1:{port}/live protocols=tcp latency=0 ! rtpjpegdepay"
        inputs = [f"{camera} ! jpegdec ! videoconvert", f"{camera} ! jpegdec"]
        summary = _run(seg_model, inputs, [f"{tmp_path}/{{source}}.jsonl"], max_frames=12)
    assert summary.frames == 12
    assert all(source.frames for source in summary.sources)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["rtspsrc-live-1.jsonl", "rtspsrc-live.jsonl"]
    lines = [json.loads(line) for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == 12
    assert "hunter2" not in json.dumps(lines)


@needs_gstreamer
def test_frames_outlive_the_pipeline() -> None:
    with open_source(_test_image("width=640,height=480", 30)) as source:
        kept = [item.frame for item in islice(source, 20)]
    assert all(int(frame[0, 0, 2]) > 250 for frame in kept)


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        ("videotestsrc num-buffers=5 ! videoconvert ! appsink", "videotestsrc"),
        ("v4l2src device=/dev/video2 ! image/jpeg ! jpegdec ! videoconvert", "v4l2src-video2"),
        ("filesrc location=/data/one.two/street.mp4 ! decodebin ! videoconvert", "filesrc-street"),
        ("rtspsrc location=rtsp://joe:hunter2@door/stream1 ! rtph264depay ! avdec_h264", "rtspsrc-stream1"),
        ("nvarguscamerasrc sensor-id=1 ! nvvidconv ! appsink", "nvarguscamerasrc-1"),
        ("v4l2src ! videoconvert", "v4l2src"),
    ],
)
def test_a_pipeline_is_named_after_its_source(pipeline: str, name: str) -> None:
    assert short_names([pipeline, pipeline]) == [name, f"{name}-1"]


@pytest.mark.parametrize(
    ("pipeline", "finite"),
    [
        ("videotestsrc num-buffers=50 ! videoconvert", True),
        ("videotestsrc num-buffers=-1 ! videoconvert", False),
        ("filesrc location=a.mp4 ! decodebin", True),
        ("uridecodebin uri=file:///a.mp4 ! videoconvert", True),
        ("uridecodebin uri=rtsp://camera/1 ! videoconvert", False),
        ("v4l2src device=/dev/video0 ! videoconvert", False),
        ("v4l2src num-buffers=100 ! videoconvert", True),
        ("multifilesrc location=%d.png index=1 ! pngdec", True),
    ],
)
def test_which_pipelines_end_by_themselves(pipeline: str, finite: bool) -> None:
    assert is_finite(pipeline) is finite


def test_the_elements_of_a_pipeline() -> None:
    text = (
        'rtspsrc location="a ! b" ! application/x-rtp,media=video ! queue name=q ! q. ! video/x-raw(memory:NVMM) ! tee'
    )
    assert elements(text) == ["rtspsrc", "queue", "tee"]


@given(parts=st.lists(WORD, min_size=1, max_size=3))
def test_a_gstreamer_string_ends_in_one_appsink(parts: list[str]) -> None:
    pipeline = pipeline_of(" ! ".join(parts))
    assert pipeline_of(pipeline) == pipeline
    assert pipeline.split(" ! ")[-1].split()[:2] == ["appsink", "name=aselect"]


@needs_gstreamer
def test_frames_that_give_way_to_newer_ones_are_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Sample] = []
    bgr = Sample.bgr

    def counting(sample: Sample) -> Any:
        made.append(sample)
        return bgr(sample)

    monkeypatch.setattr(Sample, "bgr", counting)
    camera = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=BGR,width=64,height=48,framerate=100/1"
    grab = Grab(lambda: open_source(camera))
    deadline = time.monotonic() + 20
    while grab.dropped < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == []
    taken = grab.take(5)
    grab.abandon()
    assert taken is not None
    assert taken[0].index >= 20
    assert len(made) == 1
