"""A real browser for tests: headless Chromium, driven through its DevTools protocol with aiohttp's client.

python -m tests.runtime.chromium URL FILE.png WIDTH HEIGHT SECONDS    an image of a page that has been open for so long
"""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from itertools import count
from typing import Any

import aiohttp
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)
        self.complaints: list[str] = []
        """What the page's scripts and its security policy complained about."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=20)
            said = message.get("params", {})
            if message.get("method") == "Runtime.exceptionThrown" or said.get("entry", {}).get("level") == "error":
                self.complaints.append(str(said))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, script: str, seconds: float = 20) -> None:
        """Wait until a JavaScript expression is true."""
        for _ in range(int(seconds / 0.05)):
            if await self.run(script):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {script}; {self.complaints}")

    async def size(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def screenshot(self) -> bytes:
        """PNG bytes of what is visible."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


@asynccontextmanager
async def page(url: str) -> AsyncIterator[Page]:
    """Open a tab; the browser ends with the block."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            assert browser.stderr is not None
            found = next(filter(None, (re.search(r"ws://([\d.:]+)/", line) for line in browser.stderr)))
            async with aiohttp.ClientSession() as session:
                async with session.put(f"http://{found[1]}/json/new?about:blank") as answer:
                    address = (await answer.json())["webSocketDebuggerUrl"]
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    tab = Page(socket)
                    for domain in ("Runtime", "Log", "Page"):
                        await tab.call(f"{domain}.enable")
                    await tab.call("Page.navigate", url=url)
                    yield tab
        finally:
            browser.terminate()
            browser.wait(20)
            if browser.stderr is not None:
                browser.stderr.close()


COLOURS = 256
"""Of an image for the documentation: a palette makes it a third of the size."""


async def _image(url: str, file: str, width: str, height: str, seconds: str) -> None:
    async with page(url) as tab:
        await tab.size(int(width), int(height))
        await asyncio.sleep(float(seconds))
        shot = Image.open(BytesIO(await tab.screenshot())).convert("RGB")
        shot.quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    asyncio.run(_image(*sys.argv[1:]))
