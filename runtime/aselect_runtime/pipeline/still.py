"""Whether a frame shows something new, so that a scene in which nothing moves costs no inference."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, stretched
from aselect_runtime.results import Captured

CELL = 8
"""Model pixels of the side of a cell. A mean over a cell is nearly free of sensor noise, and whatever enters the scene
changes a few of them fully, where it would change the mean of the whole frame by next to nothing."""
REFRESH = 5.0
"""Seconds of the source after which a frame is inferred although nothing moved."""


@dataclass(frozen=True)
class _Inferred:
    """The latest frame of a stream that was inferred: the means of its cells, its shape, its time in seconds."""

    cells: Frame
    shape: tuple[int, ...]
    time: float


class StillFrames:
    """Compares each frame with the latest inferred one of its stream; for one thread.

    `threshold` is the largest change of a cell's mean, in any channel, that does not count: a share of the range of
    values, above 0 and below 1. Raises InputError for any other.
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
        """Whether the latest inferred frame's answer will do; if not, this frame becomes the latest inferred one.

        `pixels` is the frame's model input, uint8 [h, w, 3].
        """
        height, width = pixels.shape[:2]
        cells = stretched(pixels, (-(-height // CELL), -(-width // CELL)), cv2.INTER_AREA)
        now = _seconds(captured)
        last = self._inferred.get(stream)
        if (
            last is not None
            and captured.frame.shape == last.shape  # another size is another camera, or another part of the scene
            and 0 <= now - last.time < REFRESH
            and cv2.norm(cells, last.cells, cv2.NORM_INF) <= self._threshold
        ):
            return True
        self._inferred[stream] = _Inferred(cells, captured.frame.shape, now)
        return False


def _seconds(captured: Captured) -> float:
    """When a frame was seen. A video is read faster than it plays: its own time counts."""
    source = captured.source
    return captured.t_monotonic if source.live or not source.fps else captured.index / source.fps
