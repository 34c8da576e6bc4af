"""Sends the newest result of every stream to all open pages; no page waits for another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import WSMsgType, web

from aselect_runtime.results import Result

VIEWERS = 8
"""Maximum number of open pages; each needs bandwidth and CPU time."""
WINDOW = 4
"""Messages that may be sent to a page before it has confirmed one: a slow connection or a hidden page delays only
itself, and the next message is always the newest."""
FASTEST = 30.0
"""Maximum images per second of a stream that are sent to a page, however fast a video is processed."""
TRY_AGAIN_LATER = 1013
GOING_AWAY = 1001
BROKEN = 1011

log = logging.getLogger(__name__)
HEARTBEAT = 15.0
"""Seconds between two checks whether a silent page is still connected."""
CLOSE_TIMEOUT = 2.0
"""Seconds that a page has to close the connection."""


class Hub:
    """The open pages of one event loop; only `post` may be called from other threads."""

    def __init__(self, first: str, encode: Callable[[Result], bytes]) -> None:
        self._first = first
        self._encode = encode
        self._loop = asyncio.get_running_loop()
        self._newest: dict[int, tuple[int, Result]] = {}
        self._messages: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        self._viewers: dict[web.WebSocketResponse, asyncio.Event] = {}

    def post(self, number: int, result: Result) -> None:
        """Store the `number`-th result (counted from 1) and notify the pages; for any thread, returns at once."""
        self._newest[result.stream] = (number, result)
        if self._viewers:
            self._loop.call_soon_threadsafe(self._wake)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Send messages to one page until it disconnects; if VIEWERS pages are open, close it with TRY_AGAIN_LATER."""
        # A JPEG hardly gets smaller, and would be compressed again for each page.
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, timeout=CLOSE_TIMEOUT, max_msg_size=64, compress=False)
        await socket.prepare(request)
        if len(self._viewers) >= VIEWERS:
            await socket.close(code=TRY_AGAIN_LATER, message=b"too many viewers")
            return socket
        credit, news = asyncio.Semaphore(WINDOW), asyncio.Event()
        news.set()
        self._viewers[socket] = news
        sender = asyncio.create_task(self._send(socket, credit, news))
        try:
            async for message in socket:  # every message of the page confirms one of the server's
                if message.type is not WSMsgType.TEXT:
                    break
                credit.release()
        finally:
            del self._viewers[socket]
            sender.cancel()
            await asyncio.wait([sender])
        return socket

    async def close(self) -> None:
        """Close the connection of every page."""
        await asyncio.gather(
            *(socket.close(code=GOING_AWAY, message=b"the run has ended") for socket in [*self._viewers])
        )

    async def _send(self, socket: web.WebSocketResponse, credit: asyncio.Semaphore, news: asyncio.Event) -> None:
        try:
            await socket.send_str(self._first)
            shown: dict[int, int] = {}
            while True:
                await credit.acquire()
                while not (waiting := self._unseen(shown)):
                    news.clear()
                    await news.wait()
                stream = min(waiting, key=lambda key: shown.get(key, 0))  # the one that was sent least recently
                shown[stream], message = await self._message(stream)
                await socket.send_bytes(message)
                await asyncio.sleep(1 / FASTEST / len(self._newest))
        except ConnectionError:  # the page was closed
            return
        except Exception as error:  # no error may affect other pages or the run
            log.error("live page: %s: %s; the page is closed", type(error).__name__, error)
            await socket.close(code=BROKEN, message=b"the server failed")

    def _unseen(self, shown: dict[int, int]) -> list[int]:
        return [stream for stream, (number, _) in self._newest.items() if number != shown.get(stream, 0)]

    async def _message(self, stream: int) -> tuple[int, bytes]:
        """The number and message of a stream's newest result; encoded once for all pages."""
        number, result = self._newest[stream]
        if self._messages.get(stream, (0,))[0] != number:
            self._messages[stream] = (number, self._loop.run_in_executor(None, self._encode, result))
        number, message = self._messages[stream]
        return number, await asyncio.shield(message)  # a page that disconnects must not cancel it for the others

    def _wake(self) -> None:
        for news in self._viewers.values():
            news.set()
