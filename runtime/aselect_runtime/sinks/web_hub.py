"""The newest result of every stream, and the viewers who are shown them: newest wins, nobody waits for anybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import WSMsgType, web

from aselect_runtime.results import Result

VIEWERS = 8
"""Most pages that may be open at once; each costs bandwidth and some of the processor."""
WINDOW = 4
"""Messages that may be under way to a page before it has confirmed one: a slow line or a hidden page holds up only
itself, and what it gets next is the newest."""
FASTEST = 30.0
"""Images per second of a stream that a page is sent at most, however fast a video is worked through."""
TRY_AGAIN_LATER = 1013
GOING_AWAY = 1001
BROKEN = 1011

log = logging.getLogger(__name__)
HEARTBEAT = 15.0
"""Seconds between looks whether a silent page is still there."""
PATIENCE = 2.0
"""Seconds that a page gets to take its leave."""


class Hub:
    """Lives on one event loop; only `post` may be called from elsewhere."""

    def __init__(self, first: str, encode: Callable[[Result], bytes]) -> None:
        self._first = first
        self._encode = encode
        self._loop = asyncio.get_running_loop()
        self._newest: dict[int, tuple[int, Result]] = {}
        self._messages: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        self._viewers: dict[web.WebSocketResponse, asyncio.Event] = {}

    def post(self, number: int, result: Result) -> None:
        """Take the `number`-th result (counted from 1); from any thread, returns at once."""
        self._newest[result.stream] = (number, result)
        if self._viewers:
            self._loop.call_soon_threadsafe(self._wake)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Show one page everything until it leaves; one too many is told to try again later."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, timeout=PATIENCE, max_msg_size=64)
        await socket.prepare(request)
        if len(self._viewers) >= VIEWERS:
            await socket.close(code=TRY_AGAIN_LATER, message=b"too many viewers")
            return socket
        credit, news = asyncio.Semaphore(WINDOW), asyncio.Event()
        news.set()
        self._viewers[socket] = news
        sender = asyncio.create_task(self._send(socket, credit, news))
        try:
            async for message in socket:  # every message confirms one of ours
                if message.type is not WSMsgType.TEXT:
                    break
                credit.release()
        finally:
            del self._viewers[socket]
            sender.cancel()
            await asyncio.wait([sender])
        return socket

    async def close(self) -> None:
        """Say good-bye to every page."""
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
                stream = min(waiting, key=lambda key: shown.get(key, 0))  # the one that was served longest ago
                shown[stream], message = await self._message(stream)
                await socket.send_bytes(message)
                await asyncio.sleep(1 / FASTEST / len(self._newest))
        except ConnectionError:  # the page is gone
            return
        except Exception as error:  # whatever it is, it must not take other pages or the run along
            log.error("live page: %s: %s; the page is closed", type(error).__name__, error)
            await socket.close(code=BROKEN, message=b"the server failed")

    def _unseen(self, shown: dict[int, int]) -> list[int]:
        return [stream for stream, (number, _) in self._newest.items() if number != shown.get(stream, 0)]

    async def _message(self, stream: int) -> tuple[int, bytes]:
        """The newest message of a stream and its number; encoded once, however many look at it."""
        number, result = self._newest[stream]
        if self._messages.get(stream, (0,))[0] != number:
            self._messages[stream] = (number, self._loop.run_in_executor(None, self._encode, result))
        number, message = self._messages[stream]
        return number, await asyncio.shield(message)  # a page that leaves must not take it from the others

    def _wake(self) -> None:
        for news in self._viewers.values():
            news.set()
