"""The live page's listening socket: limits on connections and time, and a short answer to invalid requests."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from aselect_runtime.sinks.limits import IDLE, most_connections
from aselect_runtime.sinks.web_guard import HEADERS, Address

SILENT = logging.Logger("requests", logging.CRITICAL + 1)
"""Requests are not logged: unknown clients could fill the disk."""
LINGER = 1.0
"""Seconds to read and discard a request's body, which no page here uses."""


class _Connection(RequestHandler):
    """A connection. aiohttp closes it if no complete request comes within IDLE seconds."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - aiohttp's signature
        message: str | None = None,  # noqa: ARG002 - it contains what the client sent
    ) -> web.StreamResponse:
        """The answer to a request that is not valid HTTP."""
        if request.writer.output_size > 0:
            raise ConnectionError("a response has been started already")
        text = "This request cannot be read.\n" if status < 500 else "The server failed.\n"
        response = web.Response(status=status, text=text, headers=HEADERS)
        response.force_close()
        return response


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _Greeting(asyncio.Protocol):
    """A connection until its TLS handshake is complete. asyncio's own server does not tell of one before that."""

    def __init__(self, tls: ssl.SSLContext, then: _Connection, open_ones: set[_Greeting]) -> None:
        self._tls, self._then, self._open = tls, then, open_ones
        self._open.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()  # what has arrived is for the handshake
        self._task = asyncio.ensure_future(self._greet(transport))

    async def _greet(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport, self._then, self._tls, server_side=True, ssl_handshake_timeout=IDLE
            )
        except OSError:  # ssl.SSLError and a handshake that takes too long are some
            transport.abort()
        else:
            if secured is not None:
                self._then.connection_made(secured)
        finally:
            self._open.discard(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._open.discard(self)


class Site(web.BaseSite):
    """Listens on an address for a runner; raises OSError if that fails."""

    def __init__(self, runner: web.AppRunner, address: Address, tls: ssl.SSLContext | None) -> None:
        super().__init__(runner)
        self._address = address
        self._tls = tls

    @property
    def name(self) -> str:
        return self._address.url(self._address.port)

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_ignore_client_errors)
        server, most = self._runner.server, most_connections()
        assert server is not None

        greetings: set[_Greeting] = set()

        def connection() -> asyncio.Protocol:
            if len(server.connections) + len(greetings) >= most:
                return _Refused()
            made = _Connection(
                server, loop=loop, keepalive_timeout=IDLE, lingering_time=LINGER, access_log=SILENT, logger=SILENT
            )
            return made if self._tls is None else _Greeting(self._tls, made, greetings)

        self._server = await loop.create_server(connection, self._address.host, self._address.port, backlog=most)


def _ignore_client_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore failed connections and handshakes, for each of which asyncio would log a traceback."""
    if not isinstance(context.get("exception"), OSError):  # ssl.SSLError is one
        loop.default_exception_handler(context)
