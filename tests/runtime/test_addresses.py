"""Addresses as people type them: every password works, every kind of failure reads differently, every format opens."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import cast
from urllib.parse import unquote, urlsplit

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.errors import InputError
from aselect_runtime.media import VIDEO_SUFFIXES
from aselect_runtime.sources import open_source
from aselect_runtime.sources.addresses import quoted, quoted_destination
from aselect_runtime.sources.camera import Camera
from tests.runtime import videos


@given(
    scheme=st.sampled_from(["rtsp", "rtsps", "http", "https", "rtmp", "srt"]),
    user=st.text("abcé._-", min_size=1, max_size=6),
    password=st.text("XY/:@?#%&=;+! []é\"'\\", min_size=1, max_size=10),
    rest=st.sampled_from(["10.0.0.7:554/live?channel=1", "camera.lan/1", "camera:8554/a/b"]),
)
def test_any_password_reaches_the_camera(scheme: str, user: str, password: str, rest: str) -> None:
    parts = urlsplit(quoted(f"{scheme}://{user}:{password}@{rest}"))
    assert unquote(parts.username or "") == user
    assert unquote(parts.password or "") == password
    assert quoted(parts.geturl()) == parts.geturl()
    assert parts.geturl().endswith(f"@{rest}")


@pytest.mark.parametrize(
    "uri",
    [
        *("rtsp://camera/1", "rtsp://camera:554/user=joe_password=x_channel=1", "http://host:8080/a@b.jpg"),
        *("rtsp://u:p@host/path?mail=a@b", "rtsp://u:p%40x@camera.lan/1", "udp://@:5000", "rtsp://[::1]:554/x"),
    ],
)
def test_an_address_in_order_stays_as_it_is(uri: str) -> None:
    assert quoted(uri) == uri


@pytest.mark.parametrize(
    ("uri", "host", "path"),
    [
        ("http://node-red/hook/@cam/1", "node-red", "/hook/@cam/1"),
        ("mqtt://user@broker/site@home/door", "broker", "/site@home/door"),
        ("mqtt://user:p@ss@broker/a", "broker", "/a"),
        ("mqtt://user:p/w@broker/a", "broker", "/a"),
        ("https://hooks.example.org:8443/a@b", "hooks.example.org", "/a@b"),
    ],
)
def test_data_go_to_the_host_that_the_standard_names(uri: str, host: str, path: str) -> None:
    parts = urlsplit(quoted_destination(uri))
    assert (parts.hostname, parts.path) == (host, path)


@pytest.mark.parametrize("uri", ["mqtt://user:p@ss/w@broker/a", "https://us/er:pw@hooks/a"])
def test_a_destination_that_can_be_read_in_two_ways_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match=r"got a second @ behind a /.*write %40 .* and %2F") as caught:
        quoted_destination(uri)
    assert "ss/w" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["rtsp://cam..lan/1", f"rtsp://{'a' * 64}.lan/1", "https://cam..lan/1", "http://cam..lan/1"]
)
def test_a_host_name_that_cannot_exist_is_unknown(uri: str) -> None:
    with pytest.raises(InputError, match=r"got no address for the host .*expected a name that can be resolved"):
        open_source(uri).__enter__()


@contextmanager
def _server(password: str) -> Iterator[int]:
    """Knows the user joe and /live, which has nothing to show; yields its port."""
    wanted = "Basic " + base64.b64encode(f"joe:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == wanted
            self.send_response(401 if not known else 404 if self.path != "/live" else 200)
            if not known:
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"none")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _fault(uri: str) -> str:
    with pytest.raises(InputError) as caught, open_source(uri):
        pass
    return str(caught.value)


def test_wrong_password_wrong_path_and_unknown_host_read_differently(free_port: int) -> None:
    with _server("p@ss/w#rd?") as port:
        host = f"127.0.0.1:{port}"
        assert "no access (401)" in _fault(f"http://{host}/live")
        assert "no access (401)" in (told := _fault(f"http://joe:hunter2@{host}/live"))
        assert "hunter2" not in told
        assert "no such stream there (404)" in _fault(f"http://joe:p@ss/w#rd?@{host}/none")
        assert "no video" in _fault(f"http://joe:p@ss/w#rd?@{host}/live")
    assert "no address for the host no-such-host.invalid" in _fault("rtsp://no-such-host.invalid/1")
    assert "no server at that port" in _fault(f"rtsp://127.0.0.1:{free_port}/1")
    assert "no server at that port" in _fault(f"rtmp://127.0.0.1:{free_port}/1")
    if not re.search(r"\bsrt\b", " ".join(av.library_versions)):
        assert "MediaMTX" in _fault(f"srt://127.0.0.1:{free_port}")


def test_a_udp_stream_is_live_and_needs_no_host(free_port: int) -> None:
    assert open_source(f"udp://@:{free_port}").info.live
    assert open_source("rtmp://host/app/key").info.live
    with pytest.raises(InputError, match="no host"):
        open_source("udp://")


@pytest.mark.parametrize(
    ("uri", "device"),
    [
        ("0", "/dev/video0"),
        ("12", "/dev/video12"),
        ("/dev/video3", "/dev/video3"),
        ("/dev/v4l/by-id/usb-046d_C920-video-index0", "/dev/v4l/by-id/usb-046d_C920-video-index0"),
        ("/dev/front-camera", "/dev/front-camera"),
    ],
)
def test_names_of_cameras(uri: str, device: str) -> None:
    source = open_source(uri)
    assert isinstance(source, Camera)
    assert (source.info.name, source.info.live) == (device, True)


def test_a_folder_named_like_a_camera_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    cv2.imwrite(str(tmp_path / "0" / "a.png"), np.zeros((8, 9, 3), np.uint8))
    assert not open_source("0").info.live


CODECS = {
    **{".flv": "flv1", ".wmv": "wmv2", ".3gp": "mpeg4", ".h264": "libx264", ".264": "libx264", ".gif": "gif"},
    **dict.fromkeys((".m2ts", ".mts", ".vob"), "mpeg2video"),
}
FORMATS = {".m2ts": "mpegts", ".mts": "mpegts", ".264": "h264"}


@pytest.mark.parametrize("suffix", CODECS)
def test_formats_of_recorders(tmp_path: Path, suffix: str) -> None:
    assert suffix in VIDEO_SUFFIXES
    path, codec = tmp_path / f"a{suffix}", CODECS[suffix]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with av.open(str(path), "w", format=FORMATS.get(suffix)) as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=25))
        stream.height, stream.width = videos.SIZE
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(videos.grey(number), format="bgr24").reformat(format=stream.pix_fmt)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_source(str(path)) as source:
        captured = list(source)
    assert len(captured) == 10
    assert [each.position for each in captured] == pytest.approx([n / 25 for n in range(10)], abs=0.005)


def test_images_that_opencv_does_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InputError, match="heif-convert"):
        open_source(str(tmp_path / "a.heic"))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((8, 9, 3), np.uint8))
    with open_source(str(tmp_path)) as source:
        assert len(list(source)) == 1
    assert "left out 1 images such as a.heic" in caplog.text


def test_an_avif_image_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    if not cv2.haveImageWriter(str(path)):
        pytest.skip("this OpenCV has no AVIF")
    cv2.imwrite(str(path), np.full((16, 16, 3), 200, np.uint8))
    with open_source(str(path)) as source:
        (captured,) = source
    assert abs(float(captured.frame.mean()) - 200) < 3


def test_a_password_with_a_hash_is_no_option_of_trust() -> None:
    assert open_source("rtsps://joe:pa#ss@10.0.0.7/1").info.live
    with pytest.raises(InputError, match="after #"):
        open_source("rtsps://10.0.0.7/1#nonsense=1")
