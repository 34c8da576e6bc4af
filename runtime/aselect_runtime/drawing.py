"""Painting a result over its frame: class colours and a legend, or the best classes as bars."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from aselect_edge.frames import Frame
from aselect_edge.records import Manifest
from aselect_runtime.results import Result, areas, class_map, top_scores

HEIGHTS = (480, 1080)
"""Pictures are scaled to a height in this range, so that the legend is legible and a 4K camera's file stays small."""
OPACITY = 0.5
PANEL = 0.35
"""How much of the picture shines through behind the legend."""
ROWS = 12
"""A legend longer than this lists the largest classes only."""
FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE = (255, 255, 255)

Row = tuple[str, float, tuple[int, int, int]]
"""Name, share from 0 to 1, and colour (BGR)."""


class Painter:
    """Paints results of one model."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._colours = {item.name: item.colour[::-1] for item in manifest.classes}
        self._lut = np.zeros((256, 3), np.uint8)
        self._lut[: len(manifest.classes)] = [item.colour[::-1] for item in manifest.classes]

    def paint(self, result: Result) -> Frame:
        """A new BGR picture [H, W, 3] at display size with even sides."""
        frame = result.captured.frame
        height, width = display_size(frame.shape[0], frame.shape[1])
        picture: Any = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        if self._manifest.task == "cls":
            _bars(picture, self._rows(top_scores(result, self._manifest)))
            return picture  # type: ignore[no-any-return]
        # Colouring the small map and enlarging the colours is far cheaper than the other way round.
        colours: Any = self._lut[class_map(result, self._manifest)]
        colours = cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)
        picture = cv2.addWeighted(picture, 1 - OPACITY, colours, OPACITY, 0)
        shares = areas(result, self._manifest)
        if len(shares) > ROWS:
            shares = dict(sorted(shares.items(), key=lambda item: -item[1])[:ROWS])
        _legend(picture, self._rows(shares))
        return picture  # type: ignore[no-any-return]

    def _rows(self, shares: dict[str, float]) -> list[Row]:
        return [(name, share, self._colours[name]) for name, share in shares.items()]


def display_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the picture of a frame: within HEIGHTS, aspect kept, even as video codecs want it."""
    wanted = min(max(height, HEIGHTS[0]), HEIGHTS[1])
    return wanted // 2 * 2, max(2, round(width * wanted / height / 2) * 2)


def _legend(picture: Frame, rows: list[Row]) -> None:
    unit = _unit(picture)
    column = max(_text_width(name, unit) for name, _, _ in rows)
    right = column + 9 * unit // 2
    _panel(picture, right, len(rows), unit)
    for number, (name, share, colour) in enumerate(rows):
        top = unit + number * unit
        cv2.rectangle(picture, (unit, top + 2), (unit + unit * 2 // 3, top + unit - 3), colour, cv2.FILLED)
        _write(picture, name, 2 * unit, top + unit, unit)
        _write_share(picture, share, right, top + unit, unit)


def _bars(picture: Frame, rows: list[Row]) -> None:
    unit = _unit(picture)
    column = max(_text_width(name, unit) for name, _, _ in rows)
    length = 6 * unit
    right = column + length + 9 * unit // 2
    _panel(picture, right, len(rows), unit)
    for number, (name, share, colour) in enumerate(rows):
        top = unit + number * unit
        _write(picture, name, unit + unit // 2, top + unit, unit)
        left = 2 * unit + column
        cv2.rectangle(picture, (left, top + 3), (left + round(length * share), top + unit - 3), colour, cv2.FILLED)
        _write_share(picture, share, right, top + unit, unit)


def _panel(picture: Frame, right: int, rows: int, unit: int) -> None:
    """Darken the corner that the legend is written on."""
    corner = picture[unit // 2 : unit * 3 // 2 + rows * unit, unit // 2 : right + unit // 2]
    corner[:] = (corner * PANEL).astype(np.uint8)


def _write(picture: Frame, text: str, left: int, bottom: int, unit: int) -> None:
    cv2.putText(picture, text, (left, bottom - unit // 4), FONT, unit / 40, WHITE, 1, cv2.LINE_AA)


def _write_share(picture: Frame, share: float, right: int, bottom: int, unit: int) -> None:
    """A percentage that ends at `right`; the font is proportional, so spaces would not align it."""
    text = f"{share:.0%}"
    _write(picture, text, right - _text_width(text, unit), bottom, unit)


def _text_width(text: str, unit: int) -> int:
    (width, _), _ = cv2.getTextSize(text, FONT, unit / 40, 1)
    return int(width)


def _unit(picture: Frame) -> int:
    """Height of a line of the legend in pixels."""
    return max(12, int(picture.shape[0]) // 27)
