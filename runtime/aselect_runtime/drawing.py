"""Drawing a model's output over the frame: class colours with a legend, or the top classes as bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import cv2
import numpy as np

from aselect_runtime.frames import NEAREST, Frame, stretched
from aselect_runtime.records import Manifest
from aselect_runtime.rings import FrameRing

HEIGHTS = (480, 1080)
"""Images are scaled to a height in this range: the legend stays legible, and the file of a 4K camera small."""
WIDEST = 8190
"""Maximum width of an image: MPEG-4 states it in 13 bits. The image of a wider frame is lower than HEIGHTS."""
OPACITY = 0.5
PANEL = 0.35
"""Share of the image's brightness that is kept behind the legend."""
ROWS = 12
"""A legend longer than this lists the largest classes only."""
FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Look:
    """How results are drawn."""

    opacity: float = OPACITY
    """Of the class colours, from 0 (the frame alone) to 1."""
    clear: frozenset[str] = frozenset()
    """Names of classes that are not drawn, such as the background."""


PLAIN = Look()

Row = tuple[str, float, tuple[int, int, int]]
"""Name, share from 0 to 1, and colour (BGR)."""


IMAGES = 4
"""Drawn images that may be in use at the same time; for more, new buffers are allocated."""


class Painter:
    """Draws the outputs of one model. For use by one thread.

    Its buffers are reused, those of images as soon as nothing refers to them: allocating arrays of an image's size
    costs more time, in page faults, than the drawing.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._colours = {item.name: item.colour[::-1] for item in manifest.classes}
        self._lut = np.zeros((256, 1, 3), np.uint8)
        if manifest.task == "seg":  # a classifier may have more classes than a map has values
            self._lut[: len(manifest.classes), 0] = [item.colour[::-1] for item in manifest.classes]
        self._images = FrameRing(IMAGES)
        self._layers = FrameRing(1)

    def paint(
        self, frame: Frame, shares: Mapping[str, float], class_map: Frame | None = None, look: Look = PLAIN
    ) -> Frame:
        """A BGR image, uint8 [H, W, 3], at display size with even sides; it does not change while it is referenced.

        `shares` (0 to 1, by class name) are listed in the legend. For segmentation give `class_map` too, uint8 [h, w]
        of any size: it is stretched over the frame.
        """
        height, width = display_size(frame.shape[0], frame.shape[1])
        image = self._images.take((height, width, 3))
        if class_map is None:
            cv2.resize(frame, (width, height), dst=image, interpolation=cv2.INTER_LINEAR)
            _bars(image, self._rows(shares))
            return image
        if frame.shape[:2] != (height, width):
            frame = stretched(frame, (height, width), cv2.INTER_LINEAR, image)
        layer = self._layer(class_map, (height, width))
        if look.clear:
            numbers = [number for number, name in enumerate(self._colours) if name in look.clear]
            small = np.isin(class_map, numbers).view(np.uint8)
            clear = cv2.resize(small, (width, height), interpolation=NEAREST)
            cv2.copyTo(frame, clear, layer)
        cv2.addWeighted(frame, 1 - look.opacity, layer, look.opacity, 0, dst=image)
        if len(shares) > ROWS:
            shares = dict(sorted(shares.items(), key=lambda item: -item[1])[:ROWS])
        _legend(image, self._rows(shares))
        return image

    def _layer(self, class_map: Frame, size: tuple[int, int]) -> Frame:
        """The class colours [H, W, 3]: looked up on the small map, which is much cheaper, and then enlarged."""
        layer = self._layers.take((*size, 3))
        small = cv2.applyColorMap(class_map, self._lut)
        return cast("Frame", cv2.resize(small, size[::-1], dst=layer, interpolation=cv2.INTER_LINEAR))

    def _rows(self, shares: Mapping[str, float]) -> list[Row]:
        return [(name, share, self._colours[name]) for name, share in shares.items()]


def display_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the drawn image of a frame: within HEIGHTS and WIDEST, aspect kept, even as codecs need it."""
    wanted = min(max(height, HEIGHTS[0]), HEIGHTS[1], max(1, WIDEST * height // width))
    return max(2, wanted // 2 * 2), min(WIDEST, max(2, round(width * wanted / height / 2) * 2))


def _legend(image: Frame, rows: list[Row]) -> None:
    unit = _unit(image)
    column = max(_text_width(name, unit) for name, _, _ in rows)
    right = column + 9 * unit // 2
    _panel(image, right, len(rows), unit)
    for number, (name, share, colour) in enumerate(rows):
        top = unit + number * unit
        cv2.rectangle(image, (unit, top + 2), (unit + unit * 2 // 3, top + unit - 3), colour, cv2.FILLED)
        _write(image, name, 2 * unit, top + unit, unit)
        _write_share(image, share, right, top + unit, unit)


def _bars(image: Frame, rows: list[Row]) -> None:
    unit = _unit(image)
    column = max(_text_width(name, unit) for name, _, _ in rows)
    length = 6 * unit
    right = column + length + 9 * unit // 2
    _panel(image, right, len(rows), unit)
    for number, (name, share, colour) in enumerate(rows):
        top = unit + number * unit
        _write(image, name, unit + unit // 2, top + unit, unit)
        left = 2 * unit + column
        cv2.rectangle(image, (left, top + 3), (left + round(length * share), top + unit - 3), colour, cv2.FILLED)
        _write_share(image, share, right, top + unit, unit)


def _panel(image: Frame, right: int, rows: int, unit: int) -> None:
    """Darken the corner that the legend is written on."""
    corner = image[unit // 2 : unit * 3 // 2 + rows * unit, unit // 2 : right + unit // 2]
    if corner.size:  # an image may be narrower than the margin
        corner[:] = cv2.convertScaleAbs(corner, alpha=PANEL)


def _write(image: Frame, text: str, left: int, bottom: int, unit: int) -> None:
    cv2.putText(image, text, (left, bottom - unit // 4), FONT, unit / 40, WHITE, 1, cv2.LINE_AA)


def _write_share(image: Frame, share: float, right: int, bottom: int, unit: int) -> None:
    """A percentage that ends at `right`; the font is proportional, so spaces would not align it."""
    text = f"{share:.0%}"
    _write(image, text, right - _text_width(text, unit), bottom, unit)


@lru_cache(maxsize=1024)
def _text_width(text: str, unit: int) -> int:
    (width, _), _ = cv2.getTextSize(text, FONT, unit / 40, 1)
    return int(width)


def _unit(image: Frame) -> int:
    """Height of a line of the legend in pixels."""
    return max(12, int(image.shape[0]) // 27)
