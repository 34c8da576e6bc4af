"""Zones and events on the live page, in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra `web` is not installed")

from aselect_runtime.health import Health, SourceHealth
from aselect_runtime.records import Manifest
from aselect_runtime.rules import Event, Zone
from aselect_runtime.sinks import open_sink
from tests.runtime.chromium import Page, page
from tests.runtime.test_web import HOSTILE, _result, needs_chromium

LEFT = Zone(name="left", points=((0.1, 0.1), (0.4, 0.1), (0.4, 0.9), (0.1, 0.9)))
RIGHT = Zone(name=HOSTILE, points=((0.6, 0.1), (0.9, 0.1), (0.9, 0.9), (0.6, 0.9)))
OVER = Event("1", "light on the right", "bright", HOSTILE, 0, "camera", 1000.0, 1062.0, 62.0, 0.5)
GOING_ON = Event("2", HOSTILE, "dark", "left", 0, "camera", 2000.0, None, 1.0, 0.756)


@needs_chromium
def test_zones_and_events_in_a_browser(seg_model: Path, free_port: int) -> None:
    asyncio.run(_look_around(f"http://127.0.0.1:{free_port}", Manifest.load(seg_model / "manifest.json")))


async def _look_around(url: str, manifest: Manifest) -> None:
    async with page("about:blank") as tab:
        await tab.size(1280, 800)
        with open_sink(url, manifest) as write:
            result = replace(_result(), health=Health(1, 1.0, 1.0, (SourceHealth("camera", "live", 1),)))
            write(result)
            await tab.call("Page.navigate", url=url)
            await tab.until("document.querySelectorAll('figure').length === 1")
            await tab.until("document.querySelector('#fps-now').textContent === '1.0 fps'")
            assert await tab.run("document.querySelector('#events').hidden")
            before = await _colours(tab)
            write(replace(result, t_result=result.t_result + 1, zones=(LEFT, RIGHT), events=(OVER, GOING_ON)))
            await tab.until("document.querySelectorAll('#event-list li').length === 2")
            await _events(tab)
            after = await _colours(tab)
            assert await tab.run("document.title") == "aselect live"
            await tab.size(390, 844)
            assert await tab.run("document.documentElement.scrollWidth <= 390")
            assert tab.complaints == []
    red, white = after["left side of left"], after["left side of right"]
    assert red[0] - red[1] > 60, "an event goes on there"
    assert max(white) - min(white) < 40, "none goes on there"
    assert min(white) > max(before["left side of right"]) - 60
    assert red != before["left side of left"]
    assert after["middle of left"] == before["middle of left"]


async def _events(tab: Page) -> None:
    rows = await tab.run(
        "[...document.querySelectorAll('#event-list li')].map(row => [row.dataset.state,"
        " ...['.name', '.value', '.place'].map(part => row.querySelector(part).textContent)])"
    )
    assert rows == [
        ["start", HOSTILE, "75.6 %", "dark · left"],
        ["end", "light on the right", "50.0 %", f"bright · {HOSTILE}"],
    ]
    when = await tab.run("[...document.querySelectorAll('#event-list .when')].map(item => item.textContent)")
    assert when[0].startswith("since ")
    assert when[1].endswith(", 1 min 2 s")


async def _colours(tab: Page) -> dict[str, list[int]]:
    """The frame is 64x48, and zones begin at a tenth and at six tenths of it."""
    places = {"left side of left": (6, 30), "left side of right": (38, 30), "middle of left": (16, 30)}
    read: Callable[[int, int], Any] = lambda x, y: tab.run(  # noqa: E731
        "(() => { const context = document.querySelector('figure canvas').getContext('2d');"
        f"return [...context.getImageData({x}, {y}, 1, 1).data].slice(0, 3); }})()"
    )
    return {name: await read(*place) for name, place in places.items()}
