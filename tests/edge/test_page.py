"""Pages of results (training, evaluation, model card) in a real browser, as wide as a phone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_edge.evaluation.page import Section, write_page
from tests.runtime.chromium import CHROMIUM, page


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_is_readable_on_a_phone(tmp_path: Path) -> None:
    for name, size in (("wide", (400, 1200)), ("square", (900, 900))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros(size, np.uint8))
    facts = {"a long path without spaces": "x" * 200}
    table = [("graph", "compared with", "frames", "same class", "max error", "gate")]
    table += [("mixed", "torch float16, autocast", "8", "99.984%", "9.4e-04", "passed")]
    note = (
        "a note of a whole sentence, which is longer than a line of a telephone and has to be broken into several lines"
    )
    sections = [
        Section("Every class", bars={"road": 0.904, "sky": None}, colours={"road": (128, 64, 128)}),
        Section("Facts", facts=facts, rows=table),
        Section("Notes", rows=[("note",), (note,)]),
        Section("Wide", plot=tmp_path / "wide.png"),
        Section("Square", plot=tmp_path / "square.png"),
    ]
    write_page(tmp_path / "page.html", "Training", sections)
    asyncio.run(_look(f"file://{tmp_path / 'page.html'}"))


async def _look(url: str) -> None:
    async with page("about:blank") as tab:
        await tab.size(390, 844)
        await tab.call("Page.navigate", url=url)
        await tab.until("document.images.length === 2 && [...document.images].every(image => image.complete)")
        assert await tab.run("document.documentElement.scrollWidth") <= 390
        wide, square = await tab.run("[...document.images].map(image => image.getBoundingClientRect().width)")
        assert square <= 390 < 640 <= wide  # the wide one scrolls inside the page, with its text large enough
        colour = "getComputedStyle(document.querySelector('.bars i')).backgroundColor"
        assert await tab.run(colour) == "rgb(128, 64, 128)"
        assert await tab.run("document.querySelectorAll('.bars i').length") == 1
        lines = "Math.round((cell.clientHeight - 6.4) / 24)"  # padding of 0.4rem, lines of 1.5 times 16 pixels
        cells = await tab.run(
            f"[...document.querySelectorAll('td')].filter(cell => !cell.closest('.bars')).map(cell => {lines})"
        )
        assert cells[:-1] == [1] * 6
        assert cells[-1] > 1
        assert tab.complaints == []
