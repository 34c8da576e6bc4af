"""Encrypted cameras: whoever does not prove to be the camera is not looked at."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_runtime.errors import InputError
from aselect_runtime.redaction import redact
from aselect_runtime.sources import open_source
from aselect_runtime.sources.network import Endpoint
from aselect_runtime.sources.tls import Trust, ffmpeg_options

IMAGE = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
PART = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE + b"\r\n"


class Camera(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=f")
        self.end_headers()
        self.server.asked = True  # type: ignore[attr-defined]
        try:
            for _ in range(60):
                self.wfile.write(PART)
        except OSError:
            return


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None: ...


@contextmanager
def camera(certificate: tuple[Path, Path]) -> Iterator[_Server]:
    server = _Server(("", 0), Camera)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.asked = False  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def frames(uri: str) -> int:
    with open_source(uri) as source:
        return len(list(islice(source, 3)))


def test_an_untrusted_certificate_is_refused_before_any_request(
    certificate: tuple[Path, Path],
) -> None:
    with camera(certificate) as server:
        for scheme in ("https", "rtsps"):
            with pytest.raises(InputError, match=r"certificate that is not trusted.*#ca=/path/of\.pem"):
                frames(f"{scheme}://user:secret@localhost:{server.server_port}/live")
        assert not server.asked  # type: ignore[attr-defined]


def test_a_source_can_name_its_authority_or_skip_verification(certificate: tuple[Path, Path]) -> None:
    with camera(certificate) as server:
        address = f"https://localhost:{server.server_port}/live"
        assert frames(f"{address}#ca={certificate[0]}") == 3
        assert frames(f"{address}#verify=0") == 3
        with pytest.raises(InputError, match="not trusted"):  # one that trusts does not open the door for others
            frames(address)


def test_ffmpeg_itself_verifies_too(certificate: tuple[Path, Path]) -> None:
    with camera(certificate) as server:
        opened = []
        for trust in (Trust(), Trust(verify=False), Trust(ca=str(certificate[0]))):
            with ffmpeg_options(trust):
                capture = cv2.VideoCapture(f"https://localhost:{server.server_port}/live", cv2.CAP_FFMPEG)
                opened.append(capture.isOpened())
                capture.release()
    assert opened == [False, True, True]


def test_a_certificate_of_another_name_is_refused(certificate: tuple[Path, Path]) -> None:
    with camera(certificate) as server, pytest.raises(InputError, match="not trusted"):
        frames(f"https://127.0.0.2:{server.server_port}/live#ca={certificate[0]}")


@pytest.mark.parametrize(
    "option",
    ["verify=no", "ca=/nowhere.pem", "cert=x", "ca=/etc/hosts|tls_verify;0", "insecure=1", "verify=0&verify=1", ""],
)
def test_what_is_not_understood_is_refused(option: str) -> None:
    with pytest.raises(InputError, match="after #"):
        open_source(f"https://camera/live#{option}")


@pytest.mark.parametrize("before", ["camera/1", "camera", "camera:322/1", "joe:p@ss@camera/1", "joe:p#w@10.0.0.7/1"])
@pytest.mark.parametrize("name", ["a@b.pem", "site@host:1.pem"])
def test_the_path_of_an_authority_may_hold_an_at_sign(before: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("none")
    uri = f"rtsps://{before}#ca={tmp_path / name}"
    there = Endpoint.of(uri)
    assert there.host in {"camera", "10.0.0.7"}
    assert there.trust == Trust(ca=str(tmp_path / name))
    assert ("joe" in there.uri) == ("joe" in before)
    assert name not in there.uri
    for shown in (there.name, redact(uri)):
        assert "p@ss" not in shown
        assert "p#w" not in shown


def test_text_like_an_option_inside_a_password_belongs_to_the_password() -> None:
    there = Endpoint.of("rtsps://joe:pa#ca=x@10.0.0.7/1")
    assert (there.host, there.trust) == ("10.0.0.7", Trust())


def test_events_are_recorded_from_a_camera_with_its_own_authority(
    certificate: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second connection, which copies packets, verifies certificates as the source does."""
    from aselect_runtime.sinks.stream_recorder import StreamRecorder

    def recorded(address: str, path: Path) -> bool:
        caplog.clear()
        recorder = StreamRecorder(Endpoint.of(address), 5)
        recorder.begin(path, 0)
        recorder.start()
        for _ in range(100):
            if path.exists() or caplog.records:
                break
            time.sleep(0.1)
        recorder.stop()
        return path.exists()

    with camera(certificate) as server:
        address = f"https://localhost:{server.server_port}/live"
        assert recorded(f"{address}#ca={certificate[0]}", tmp_path / "own.mkv")
        assert recorded(f"{address}#verify=0", tmp_path / "any.mkv")
        assert not recorded(address, tmp_path / "none.mkv")
    assert "got no stream to record" in caplog.text
