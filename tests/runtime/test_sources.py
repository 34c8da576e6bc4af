"""Sources: every frame of a file, and one clear line for what cannot be read."""

from __future__ import annotations

import contextlib
import threading
import traceback
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_runtime.errors import AselectError, InputError
from aselect_runtime.redaction import redact
from aselect_runtime.results import SourceInfo
from aselect_runtime.rings import FrameRing
from aselect_runtime.sinks import open_sink
from aselect_runtime.sources import open_source
from aselect_runtime.sources.opencv import LiveCapture
from tests.runtime import faulty
from tests.runtime.manifests import small_manifest

faulty.register()

WORD = st.text("abcXYZ019_.-", min_size=1, max_size=12)


def test_video_delivers_every_frame(clip: Path) -> None:
    with open_source(str(clip)) as source:
        frames = list(source)
    assert source.info.fps == 10
    assert [item.index for item in frames] == list(range(12))
    assert frames[0].frame.shape == (96, 128, 3)
    assert frames[3].label == "clip-000003"


def test_images_come_in_order_with_their_names(tmp_path: Path) -> None:
    for name, grey in (("b/two.png", 20), ("a.png", 10)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((8, 9, 3), grey, np.uint8))
    with open_source(str(tmp_path)) as source:
        assert [(item.label, int(item.frame[0, 0, 0])) for item in source] == [("a", 10), ("b/two", 20)]
    with open_source(str(tmp_path / "a.png")) as source:
        assert [item.label for item in source] == ["a"]


def test_synthetic_street_obeys_its_options_and_repeats() -> None:
    uri = "synthetic://street?seed=3&size=48x64&frames=2&fps=5"
    runs = []
    for _ in range(2):
        with open_source(uri) as source:
            runs.append([item.frame for item in source])
    assert source.info.fps == 5
    assert [frame.shape for frame in runs[0]] == [(48, 64, 3)] * 2
    assert all(np.array_equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize(
    "uri",
    [
        "synthetic://moon",
        "synthetic://street?speed=3",
        "synthetic://street?size=48",
        "synthetic://street?size=0x0",
        "synthetic://street?frames=-1",
        "synthetic://street?frames=5&frames=7",
        "synthetic://street#frames=5",
        "synthetic://street?fps=nan",
        "ftp://host/video.mp4",
        "rtsp://",
        "rtsp://host:port/stream",
        "csi://front",
        "test://fault?drop=2",
        "test://moon",
        "/dev/video987",
        "no/such/file.mp4",
        "pyproject.toml",
    ],
)
def test_unusable_input_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError, match="expected"), open_source(uri):
        pass


def test_empty_and_corrupt_video(tmp_path: Path) -> None:
    for content in (b"", b"\0" * 4096):
        path = tmp_path / "bad.mp4"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{len(content)} bytes that cannot be opened"), open_source(str(path)):
            pass


def test_truncated_video(tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(40):
        writer.write(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_source(str(path)) as source, pytest.raises(InputError, match="truncated"):
        list(source)


def test_corrupt_image(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nonsense")
    with open_source(str(tmp_path)) as source, pytest.raises(InputError, match=r"bad\.png"):
        list(source)


@given(
    scheme=st.sampled_from(["rtsp", "http", "https", "mqtt"]),
    user=st.text("abc/:@?#%&=; 1", max_size=8),
    password=st.text("XYZ/:@?#%&=; ", min_size=4, max_size=12),
    token=st.text("XYZQ", min_size=4, max_size=12),
    key=st.sampled_from(["token", "t", "Signature", "user-pw"]),
)
def test_redact_hides_password_and_token(scheme: str, user: str, password: str, token: str, key: str) -> None:
    shown = redact(f"{scheme}://{user}:{password}@camera-1:554/live?channel=1&{key}={token}#{key}={token}")
    assert shown.startswith(f"{scheme}://***@camera-1:554/live?channel=1&")
    assert token not in shown
    assert password not in shown
    assert redact(shown) == shown


@given(password=st.text("XYZ123/:@?#%", min_size=4, max_size=12))
def test_redact_hides_the_password_of_a_gstreamer_string(password: str) -> None:
    shown = redact(f"rtspsrc location=rtsp://camera/1 user-id=viewer user-pw={password} ! decodebin")
    assert password not in shown
    assert "viewer" not in shown
    assert shown.endswith("! decodebin")


@pytest.mark.parametrize("options", ["user=joe_password=hun_ter2_channel=1", "user=joe&password=hun_ter2&channel=1"])
def test_redact_hides_a_password_in_the_path(options: str) -> None:
    uri = f"rtsp://camera:554/{options}"
    shown = redact(uri)
    assert "joe" not in shown
    assert "ter2" not in shown
    assert "channel=1" in shown
    assert redact(shown) == shown
    assert "ter2" not in vars(open_source(uri))["_stem"]


def test_redact_hides_a_short_password() -> None:
    assert redact("http://camera/video?usr=joe&pwd=123&channel=1") == "http://camera/video?usr=***&pwd=***&channel=1"


@given(path=WORD)
def test_redact_leaves_paths_alone(path: str) -> None:
    assert redact(f"/videos/{path}.mp4") == f"/videos/{path}.mp4"


@pytest.mark.parametrize("uri", ["rtsp://joe:hunter2@camera:x/?token=s3cret", "ftp://joe:hunter2@camera?token=s3cret"])
def test_an_error_never_shows_a_password(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(uri)
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told.replace(uri, "")
    assert "hunter2" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


MALFORMED = [
    "rtsp:/u:hunter2@h",
    "rtsp:u:hunter2@h/1",
    "RTSP:///u:hunter2@h",
    "rtsp://u:hunter2%40h",
    "rtsp://u:hunter2%40h/1",
    "u:hunter2@h/1",
    "mqtt:/u:hunter2@h/topic",
    "http://u:hunter2[x@h:80/",
    "http://h:80/x?auth=Basic hunter2",
    "http://h:80/user:a/password:hunter2/",
    "metrics://u:hunter2]@h:90",
    "mqtt://u:hunter2\u2100@h/topic",
]


@pytest.mark.parametrize("uri", MALFORMED)
def test_what_cannot_be_parsed_shows_no_password_either(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "hunter2" not in redact(uri)
    assert redact(redact(uri)) == redact(uri)
    for opening in (open_source, lambda text: open_sink(text, small_manifest()).__enter__()):
        try:
            opened: Any = opening(uri)
            told = str(vars(opened).get("_stem", ""))
        except AselectError as error:
            told = "".join(traceback.format_exception(error))
        assert "hunter2" not in told
    assert list(tmp_path.iterdir()) == []  # no folder is named so


def _faults(uri: str, frames: int) -> list[tuple[int, tuple[int, ...], float]]:
    """Index, shape and mean of up to `frames` frames of one connection."""
    seen = []
    with open_source(uri) as source, contextlib.suppress(InputError):
        for captured in source:
            seen.append((captured.index, captured.frame.shape, float(captured.frame.mean())))
            if len(seen) == frames:
                break
    return seen


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 3),
    drop=st.sampled_from([0, 0.2, 1]),
    resize=st.sampled_from([0, 0.3, 1]),
    corrupt=st.sampled_from([0, 0.5, 1]),
)
def test_the_fault_source_repeats_itself(seed: int, drop: float, resize: float, corrupt: float) -> None:
    uri = f"test://fault?seed={seed}&drop={drop}&resize={resize}&corrupt={corrupt}&fps=1000&frames=8"
    first = _faults(uri, 8)
    assert first == _faults(uri, 8)
    assert [index for index, _, _ in first] == list(range(len(first)))
    assert len(first) == {0.0: 8, 1.0: 1}.get(drop, len(first))
    shapes = len({shape for _, shape, _ in first})
    assert shapes == 1 if resize == 0 or len(first) == 1 else shapes >= 1 + (resize == 1)


def test_a_ring_hands_out_again_what_nobody_holds() -> None:
    ring = FrameRing(2)
    first = ring.take((4, 5, 3))
    view = first[1:, :2][None]
    identity = id(first)
    del first
    assert id(ring.take((4, 5, 3))) != identity  # the view still looks at it
    del view
    assert id(ring.take((4, 5, 3))) == identity
    assert ring.take((2, 2, 3)).shape == (2, 2, 3)


def test_a_thread_that_comes_back_closes_its_own_connection() -> None:
    """A source object is entered again when a read hangs; the hanging thread leaves while the new one reads."""

    class Connection:
        released = 0

        def next(self) -> None:
            return None

        def get(self, _: int) -> float:
            return 0.0

        def release(self) -> None:
            self.released += 1

    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(Connection())
        return opened[-1]

    source = LiveCapture(SourceInfo("camera", 0, live=True), "camera", connect, "check it")
    entered, leave = threading.Event(), threading.Event()

    def hang() -> None:
        with source:
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=hang)
    thread.start()
    assert entered.wait(20)
    with source:
        leave.set()
        thread.join()
        assert [each.released for each in opened] == [1, 0]
    assert [each.released for each in opened] == [1, 1]
