"""Limits of the servers of a run: connections, time, invalid requests and unknown host names."""

from __future__ import annotations

import re
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")

from aselect_runtime.records import Manifest
from aselect_runtime.sinks import limits, metrics_server, open_sink, web_site

Serve = Callable[[str], "ExitStack"]


@pytest.fixture(params=["http", "metrics"])
def port(
    request: pytest.FixtureRequest, seg_model: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[int]:
    """Of a server with short timeouts and at most eight connections."""
    monkeypatch.setattr(limits, "CONNECTIONS", 8)
    for module in (web_site, metrics_server):
        monkeypatch.setattr(module, "IDLE", 1.0)
    with open_sink(f"{request.param}://127.0.0.1:{free_port}", Manifest.load(seg_model / "manifest.json")):
        yield free_port


@contextmanager
def connected(port: int, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(sent)
        yield client


def answer(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    with connected(port, sent) as client:
        received = b""
        while chunk := client.recv(65536):
            received += chunk
        return received


def get(port: int, path: str = "/metrics", headers: str = "") -> bytes:
    return answer(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\r\n".encode())


def test_idle_connections_are_few_and_do_not_last(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(port)) for _ in range(100)]
        drip = stack.enter_context(connected(port, b"GET /metrics HTTP/1.1\r\nX: "))
        assert threading.active_count() <= threads + 1
        for client in (*idle, drip):
            try:
                assert client.recv(1) == b""  # closed, whether at once or when its time was over
            except ConnectionResetError:
                continue
        assert get(port).startswith(b"HTTP/1.1 200 OK\r\n")
    assert capfd.readouterr().err.count("\n") <= 1  # where the page is


def test_connections_whose_handshake_never_comes_count(
    seg_model: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path]
) -> None:
    """A stranger who needs no token for them must not take the descriptors that cameras need."""
    monkeypatch.setenv("ASELECT_WEB_CERT", str(certificate[0]))
    monkeypatch.setenv("ASELECT_WEB_KEY", str(certificate[1]))
    monkeypatch.setattr(limits, "CONNECTIONS", 8)
    monkeypatch.setattr(web_site, "IDLE", 5.0)
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    with ExitStack() as stack:
        stack.enter_context(open_sink(f"https://localhost:{free_port}", Manifest.load(seg_model / "manifest.json")))
        silent = [
            stack.enter_context(socket.create_connection(("localhost", free_port), timeout=20)) for _ in range(30)
        ]
        for client in silent:
            client.settimeout(0.1)
        assert sum(map(_is_open, silent)) == 8
        for client in silent:
            client.settimeout(20)
        assert not any(map(_is_open, silent))  # after IDLE seconds
        plain = stack.enter_context(socket.create_connection(("localhost", free_port), timeout=10))
        secured = stack.enter_context(trust.wrap_socket(plain, server_hostname="localhost"))
        secured.sendall(f"GET / HTTP/1.1\r\nHost: localhost:{free_port}\r\nConnection: close\r\n\r\n".encode())
        assert secured.recv(15) == b"HTTP/1.1 200 OK"


def _is_open(client: socket.socket) -> bool:
    """Whether the server has not closed a connection within the socket's time."""
    try:
        return client.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def test_a_request_that_comes_byte_by_byte_is_not_waited_for(port: int) -> None:
    with connected(port) as client:
        client.settimeout(0.05)
        closed = False
        for byte in b"GET /metrics HTTP/1.1\r\nX-Endless: " + b"a" * 2000:
            try:
                client.sendall(bytes([byte]))
                closed = client.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
            if closed:
                break
        assert closed


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET http://[bad/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_data_that_is_not_http_gets_a_one_line_answer(
    port: int, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    received = answer(port, sent)
    head, _, body = received.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", head), received
    assert body.count(b"\n") <= 1
    assert b"X-Content-Type-Options: nosniff" in head
    assert b"default-src 'none'" in head
    assert not re.search(rb"(?i)aiohttp|python", received)
    assert capfd.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize(
    "header", ["Origin: http://[bad", "Origin: ::::", "Expect: wonders", "Host: [bad", "Authorization: \xff"]
)
def test_malformed_headers_of_a_page_answer_in_one_line(
    seg_model: Path, free_port: int, header: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_sink(f"http://127.0.0.1:{free_port}", Manifest.load(seg_model / "manifest.json")):
        host = "" if header.startswith("Host") else f"Host: 127.0.0.1:{free_port}\r\n"
        received = answer(free_port, f"GET / HTTP/1.1\r\n{host}Connection: close\r\n{header}\r\n\r\n".encode("latin-1"))
    assert re.match(rb"HTTP/1\.1 (4\d\d|200) ", received)
    assert (b" 200 " in received.split(b"\r\n")[0]) == header.startswith("Authorization")
    assert b"nosniff" in received
    assert "Traceback" not in capfd.readouterr().err


def test_paths_and_methods_of_the_metrics(seg_model: Path, free_port: int) -> None:
    with open_sink(f"metrics://127.0.0.1:{free_port}", Manifest.load(seg_model / "manifest.json")):
        assert b"aselect_fps" in get(free_port)
        assert get(free_port, "/metrics?x=1").startswith(b"HTTP/1.1 200")
        assert get(free_port, "/etc/passwd").startswith(b"HTTP/1.1 404")
        assert answer(free_port, b"DELETE / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405")


def test_a_server_leaves_descriptors_for_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    assert limits.most_connections() == 10
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert limits.most_connections() == limits.CONNECTIONS


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:9000", 200),  # through an SSH tunnel
        ("evil.example", 403),  # a name that was pointed at this machine
        ("192.168.1.5", 403),
        ("[bad", 403),
        ("", 403),
        ("localhost\r\nHost: evil.example", 403),
    ],
)
def test_requests_with_unknown_host_names_are_refused(port: int, host: str, status: int) -> None:
    said = f"GET /metrics HTTP/1.1\r\nHost: {host.format(port=port)}\r\nConnection: close\r\n\r\n"
    received = answer(port, said.encode())
    got = int(received.split(b" ")[1])
    assert (got == 200) == (status == 200)
    assert b"aselect_fps" in received or status != 200
    assert b"aselect_fps" not in received or status == 200


def test_metrics_answer_to_the_names_that_they_are_given(seg_model: Path, free_port: int) -> None:
    uri = f"metrics://0.0.0.0:{free_port}?host=camera.example.org"
    with open_sink(uri, Manifest.load(seg_model / "manifest.json")):
        for host, status in (("camera.example.org", 200), (socket.gethostname(), 200), ("evil.example", 403)):
            said = f"GET /metrics HTTP/1.1\r\nHost: {host}:{free_port}\r\n\r\n".encode()
            assert answer(free_port, said).startswith(b"HTTP/1.1 %d" % status)
        assert answer(free_port, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
