"""A small HTTP server for metrics: one thread for all clients, with strict limits on connections and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import Thread

from aselect_runtime.sinks.host_names import is_known
from aselect_runtime.sinks.limits import HEADERS, IDLE, most_connections

REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Headers Too Large",
}
PATHS = frozenset({"/", "/metrics"})


@contextmanager
def serving(
    host: str, port: int, content_type: str, content: Callable[[], bytes], names: Collection[str] = ()
) -> Iterator[int]:
    """Serve GET /metrics inside the block; yields the port. Raises OSError if the address cannot be bound.

    Requests must be for a host name of this machine or one of `names`, see `is_known`.
    """
    started: Future[int] = Future()
    stop: Future[None] = Future()
    handler = _Server(content_type, content, lambda asked: is_known(asked, host, names))

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # errors of clients are not logged
        try:
            server = await asyncio.start_server(handler.answer, host, port, limit=HEADERS, backlog=handler.most)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(int(server.sockets[0].getsockname()[1]))
        await asyncio.wrap_future(stop)
        server.close()
        handler.close()

    thread = Thread(target=lambda: asyncio.run(work()), name="metrics", daemon=True)
    thread.start()
    try:
        yield started.result()
    finally:
        stop.set_result(None)
        thread.join()


class _Server:
    """Answers each connection once and closes it."""

    def __init__(self, content_type: str, content: Callable[[], bytes], known: Callable[[str], bool]) -> None:
        self._known = known
        self.most = most_connections()
        self._type = content_type
        self._content = content
        self._open: set[asyncio.StreamWriter] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self.most:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            with suppress(asyncio.TimeoutError, OSError):
                await asyncio.wait_for(self._respond(reader, writer), IDLE)
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            status = 431
        except asyncio.IncompleteReadError:
            return
        else:
            status = _status(request, self._known)
        body = self._content() if status == 200 else f"{REASONS[status]}\n".encode()
        head = {
            "Content-Type": self._type if status == 200 else "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {status} {REASONS[status]}", *(f"{name}: {value}" for name, value in head.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        writer.write_eof()
        await reader.read(HEADERS)  # wait until the client closes: an abort could discard the answer


def _status(request: bytes, known: Callable[[str], bool]) -> int:
    first, *headers = request.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    line = first.split(" ")
    if len(line) != 3 or not line[2].startswith("HTTP/1.") or not all(":" in header for header in headers):
        return 400
    asked = [
        value.strip() for name, _, value in (header.partition(":") for header in headers) if name.lower() == "host"
    ]
    if len(asked) > 1 or not all(map(known, asked)):  # browsers always send one
        return 403
    if line[0] != "GET":
        return 405
    return 200 if line[1].split("?", 1)[0] in PATHS else 404
