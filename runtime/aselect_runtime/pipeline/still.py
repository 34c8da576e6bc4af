"""Detecting frames without change, so that a scene in which nothing moves needs no inference."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, stretched
from aselect_runtime.results import Captured

CELL = 8
"""Side of a cell in model pixels. The mean of a cell has little sensor noise, and an object that enters the scene
changes the means of a few cells strongly, but the mean of the whole frame hardly."""
REFRESH = 5.0
"""Seconds of the source after which a frame is inferred although nothing moved."""


@dataclass(frozen=True)
class _Inferred:
    """A stream's latest inferred frame: the means of its cells, its shape, its source's name, its time in seconds."""

    cells: Frame
    shape: tuple[int, ...]
    source: str
    time: float


class StillFrames:
    """Compares each frame with its stream's latest inferred one; for one thread.

    A frame is still if no cell's mean changes by more than `threshold` in any channel: a share of the range of pixel
    values, above 0 and below 1. Raises InputError for any other value.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold < 1:
            raise InputError(
                f"got {threshold} as the change below which a frame is still, expected a share above 0 and below 1; "
                "for example 0.01",
                parameter="skip_still",
            )
        self._threshold = threshold * 255
        self._inferred: dict[int, _Inferred] = {}

    def still(self, stream: int, captured: Captured, pixels: Frame) -> bool:
        """Whether the frame shows no change; if it does, it becomes the stream's latest inferred frame.

        `pixels` is the frame's model input, uint8 [h, w, 3].
        """
        height, width = pixels.shape[:2]
        cells = stretched(pixels, (-(-height // CELL), -(-width // CELL)), cv2.INTER_AREA)
        now = captured.seconds
        last = self._inferred.get(stream)
        if (
            last is not None
            # Another size means another camera or another view, another name the next file of a folder.
            and (captured.frame.shape, captured.source.name) == (last.shape, last.source)
            and 0 <= now - last.time < REFRESH
            and cv2.norm(cells, last.cells, cv2.NORM_INF) <= self._threshold
        ):
            return True
        self._inferred[stream] = _Inferred(cells, captured.frame.shape, captured.source.name, now)
        return False
