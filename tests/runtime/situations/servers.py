"""Servers that know one password, and say what they were given."""

from __future__ import annotations

import base64
import hashlib
import re
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.runtime.situations.making import encoded, scene

IMAGE = encoded(".jpg", scene(4))
PART = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE + b"\r\n"


class _Threaded(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def handle_error(self, *_: object) -> None: ...


class _Web(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None: ...


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[int]:
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_address[1]  # type: ignore[index,misc]
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Lock:
    """The password of joe, and how it is asked for: Basic, or Digest, as most cameras do (RFC 7616, MD5)."""

    password: str
    digest: bool = False

    @property
    def asks(self) -> str:
        """The value of WWW-Authenticate."""
        return 'Digest realm="camera", nonce="abc123"' if self.digest else 'Basic realm="camera"'

    def opens(self, method: str, given: str) -> bool:
        """Whether the value of Authorization is right."""
        if not self.digest:
            return given == "Basic " + base64.b64encode(f"joe:{self.password}".encode()).decode()
        fields = dict(re.findall(r'(\w+)="?([^",]*)"?', given))
        user, request = _md5(f"joe:camera:{self.password}"), _md5(f"{method}:{fields.get('uri')}")
        return fields.get("response") == _md5(f"{user}:abc123:{request}")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@contextmanager
def web(
    lock: Lock | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[int]:
    """Serves images of scene 4 at /live, files, and statuses at /status/NUMBER; for the user joe if it has a lock.

    Yields its port.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            if lock is not None and not lock.opens("GET", self.headers.get("Authorization", "")):
                self._answer(401, b"", WWW_Authenticate=lock.asks)
            elif self.path == "/live":
                self._answer(200, b"", Content_Type="multipart/x-mixed-replace; boundary=f")
                while not self.wfile.closed:
                    self.wfile.write(PART)
            elif self.path in files:
                self._answer(200, files[self.path])
            else:
                number = re.fullmatch(r"/status/(\d+)", self.path)
                self._answer(int(number[1]) if number else 404, b"")

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if body:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = _Web(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with _running(server) as port:
        yield port


@contextmanager
def receiver() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """Takes what is posted; yields its port, and the values of Authorization with the bodies."""
    posts: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posts.append((self.headers.get("Authorization", ""), body))
            self.send_response(200)
            self.end_headers()

    with _running(_Web(("127.0.0.1", 0), Handler)) as port:
        yield port, posts


@contextmanager
def rtsp(lock: Lock) -> Iterator[int]:
    """An RTSP server that has nothing to show: whoever gives the password learns that (404), others do not (401)."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while request := self._request():
                method, headers = request
                status, more = "200 OK", "Public: OPTIONS, DESCRIBE\r\n"
                if method != "OPTIONS":
                    known = lock.opens(method, headers.get("authorization", ""))
                    status = "404 Not Found" if known else "401 Unauthorized"
                    more = "" if known else f"WWW-Authenticate: {lock.asks}\r\n"
                self.wfile.write(f"RTSP/1.0 {status}\r\nCSeq: {headers.get('cseq', '1')}\r\n{more}\r\n".encode())

        def _request(self) -> tuple[str, dict[str, str]] | None:
            lines = []
            while line := self.rfile.readline().decode("latin-1").strip():
                lines.append(line)
            if not lines:
                return None
            pairs = (line.partition(":") for line in lines[1:])
            return lines[0].split()[0], {name.lower(): value.strip() for name, _, value in pairs}

    with _running(_Threaded(("127.0.0.1", 0), Handler)) as port:
        yield port


@contextmanager
def mqtt() -> Iterator[tuple[int, list[tuple[bytes, bytes]], list[bytes]]]:
    """An MQTT 3.1.1 broker that accepts everything; yields its port, the users with passwords, and the messages."""
    users: list[tuple[bytes, bytes]] = []
    messages: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.read(1):
                body = self.rfile.read(self._length())
                kind, quality = head[0] >> 4, head[0] >> 1 & 3
                if kind == 1:  # CONNECT: protocol, flags, keep-alive, then client, will, user, password
                    fields = list(_fields(body[10:]))
                    users.append((fields[-2], fields[-1]) if body[7] & 0xC0 == 0xC0 else (b"", b""))
                    self.wfile.write(b"\x20\x02\x00\x00")
                elif kind == 3:  # PUBLISH
                    after = 2 + int.from_bytes(body[:2], "big")
                    messages.append(body[after + (2 if quality else 0) :])
                    if quality:
                        self.wfile.write(b"\x40\x02" + body[after : after + 2])
                elif kind == 12:  # PINGREQ
                    self.wfile.write(b"\xd0\x00")

        def _length(self) -> int:
            length = shift = 0
            while True:
                (byte,) = self.rfile.read(1)
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    return length

    with _running(_Threaded(("127.0.0.1", 0), Handler)) as port:
        yield port, users, messages


def _fields(body: bytes) -> Iterator[bytes]:
    """Texts with their lengths before them."""
    while len(body) >= 2:
        size = int.from_bytes(body[:2], "big")
        yield body[2 : 2 + size]
        body = body[2 + size :]


@contextmanager
def silent() -> Iterator[int]:
    """A server that accepts connections and says nothing."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection: Any = self.request
            while connection.recv(4096):
                pass

    with _running(_Threaded(("127.0.0.1", 0), Handler)) as port:
        yield port
