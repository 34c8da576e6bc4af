"""JPEG images over HTTP: every camera's way of sending them, and what a hostile one may not do."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import InputError
from aselect_runtime.pipeline.grab import Grab
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.sources import open_source
from aselect_runtime.sources.mjpeg import LARGEST_PART, jpeg_size

Send = Callable[[BaseHTTPRequestHandler], None]
IMAGES = [cv2.imencode(".jpg", np.full((48, 64, 3), grey, np.uint8))[1].tobytes() for grey in (40, 120, 200)]


@contextmanager
def serving(send: Send, boundary: str = "frame") -> Iterator[ThreadingHTTPServer]:
    """A camera whose answer begins as that of all others."""

    class Camera(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={boundary}")
            self.end_headers()
            try:
                send(self)
            except OSError:
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def frames(server: ThreadingHTTPServer, count: int = 3, user: str = "") -> list[int]:
    """The grey values of the first frames."""
    with open_source(f"http://{user}127.0.0.1:{server.server_port}/video") as source:
        return [round(float(captured.frame.mean())) for captured in islice(source, count)]


def head(image: bytes, length: bool = True, newline: bytes = b"\r\n") -> bytes:
    lines = [b"Content-Type: image/jpeg", *([b"Content-Length: %d" % len(image)] if length else []), b""]
    return newline.join(lines) + newline


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize(
    ("boundary", "mark"),
    [("frame", b"--frame"), ("--frame", b"--frame"), ("--frame", b"----frame"), ('"my frame"', b"--my frame")],
)
def test_images_arrive_in_order(length: bool, boundary: str, mark: bytes) -> None:
    """A boundary that begins with -- is repeated with two more, or as many cameras do, as it is."""

    def send(camera: BaseHTTPRequestHandler) -> None:
        for image in IMAGES:
            camera.wfile.write(mark + b"\r\n" + head(image, length) + image + b"\r\n")
        camera.wfile.write(mark + b"--\r\n")

    with serving(send, boundary) as server:
        got = frames(server)
    assert np.abs(np.subtract(got, [40, 120, 200])).max() <= 1


def test_a_password_is_sent_to_the_camera() -> None:
    asked: list[str] = []

    def send(camera: BaseHTTPRequestHandler) -> None:
        asked.append(camera.headers.get("Authorization", ""))
        camera.wfile.write(b"--frame\r\n" + head(IMAGES[0]) + IMAGES[0] + b"\r\n--frame--\r\n")

    with serving(send) as server:
        handler = server.RequestHandlerClass
        answer = handler.do_GET  # type: ignore[attr-defined]

        def guarded(self: BaseHTTPRequestHandler) -> None:
            if "Authorization" in self.headers:
                answer(self)
                return
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        handler.do_GET = guarded  # type: ignore[attr-defined]
        assert len(frames(server, 1, "joe:p%40ss@")) == 1
        with pytest.raises(InputError, match=r"no access \(401\)") as caught:
            frames(server, 1)
    assert base64.b64decode(asked[0].removeprefix("Basic ")) == b"joe:p@ss"
    assert "joe" not in str(caught.value)


def big(camera: BaseHTTPRequestHandler) -> None:
    """A small JPEG whose header claims 16000x16000 pixels."""
    image = bytearray(IMAGES[0])
    at = image.index(b"\xff\xc0") + 5
    image[at : at + 4] = (16000).to_bytes(2, "big") * 2
    for _ in range(3):
        camera.wfile.write(b"--frame\r\n" + head(bytes(image)) + image + b"\r\n")


def claim(camera: BaseHTTPRequestHandler) -> None:
    camera.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 2147483000\r\n\r\n\xff\xd8")
    flood(camera)


def endless(camera: BaseHTTPRequestHandler) -> None:
    camera.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8")
    flood(camera)


def headers(camera: BaseHTTPRequestHandler) -> None:
    camera.wfile.write(b"--frame\r\nX: ")
    flood(camera)


def rubbish(camera: BaseHTTPRequestHandler) -> None:
    flood(camera)


def flood(camera: BaseHTTPRequestHandler) -> None:
    """Up to 512 MiB, and a note of how much somebody took."""
    server = camera.server
    for _ in range(512):
        camera.wfile.write(bytes(1 << 20))
        server.taken = getattr(server, "taken", 0) + 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("send", [big, claim, endless, headers, rubbish])
def test_a_hostile_camera_is_refused_before_it_costs_memory(send: Send) -> None:
    with serving(send) as server:
        with pytest.raises(InputError, match=r"expected JPEG images of at most 64 megapixels and 16 MiB"):
            frames(server)
        taken = getattr(server, "taken", 0)
    assert taken <= (LARGEST_PART >> 20) + 16  # what stands in the sockets' buffers is sent, too


def test_beside_a_hostile_camera_the_others_live(seg_model: Path) -> None:
    def good(camera: BaseHTTPRequestHandler) -> None:
        random = np.random.default_rng(0)
        while True:
            image = cv2.imencode(".jpg", random.integers(0, 256, (48, 64, 3), np.uint8))[1].tobytes()
            camera.wfile.write(b"--frame\r\n" + head(image) + image + b"\r\n")

    manifest, session = open_model(seg_model, "cpu")
    with serving(big) as bad, serving(good) as fine:
        inputs = [f"http://127.0.0.1:{server.server_port}/video" for server in (bad, fine)]
        patience = Patience(first_delay=0.05, longest_delay=0.1)
        summary = run_pipeline(manifest, session, inputs, max_frames=30, patience=patience)
    assert [source.frames for source in summary.sources] == [0, 30]


@given(height=st.integers(1, 60), width=st.integers(1, 60), progressive=st.booleans(), grey=st.booleans())
def test_the_size_in_a_header_is_the_size_of_the_image(height: int, width: int, progressive: bool, grey: bool) -> None:
    frame = np.zeros((height, width) if grey else (height, width, 3), np.uint8)
    data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)])[1].tobytes()
    assert jpeg_size(data) == (height, width)
    for end in (0, 1, 2, 5, 20):
        assert jpeg_size(data[:end]) is None


@given(data=st.binary(max_size=200))
def test_no_bytes_confuse_the_header(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00\x00"):
        size = jpeg_size(start + data)
        assert size is None or min(size) >= 0


def test_images_that_give_way_to_newer_ones_are_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    imdecode = cv2.imdecode

    def counting(data: np.ndarray, flags: int) -> object:
        decoded.append(len(data))
        return imdecode(data, flags)

    def send(camera: BaseHTTPRequestHandler) -> None:
        for number in range(100):
            image = IMAGES[number % 3] if number % 10 else b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x30\x00\x40"
            camera.wfile.write(b"--frame\r\n" + head(image) + image + b"\r\n")
        camera.wfile.write(b"--frame\r\n" + head(IMAGES[1]) + IMAGES[1] + b"\r\n")

    monkeypatch.setattr(cv2, "imdecode", counting)
    with serving(send) as server:
        grab = Grab(lambda: open_source(f"http://127.0.0.1:{server.server_port}/video"))
        deadline = time.monotonic() + 20
        while grab.dropped < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert decoded == []
        taken = grab.take(5)
        grab.abandon()
    assert taken is not None
    assert grab.dropped == 100
    assert decoded == [len(IMAGES[1])]
    assert abs(float(taken[0].frame.mean()) - 120) <= 1


def test_an_image_that_does_not_decode_is_left_out() -> None:
    damaged = b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x30\x00\x40\x03\x01\x22\x00"

    def send(camera: BaseHTTPRequestHandler) -> None:
        for image in (IMAGES[0], damaged, IMAGES[2]):
            camera.wfile.write(b"--frame\r\n" + head(image) + image + b"\r\n")
        camera.wfile.write(b"--frame--\r\n")

    with serving(send) as server:
        assert np.abs(np.subtract(frames(server, 2), [40, 200])).max() <= 1
