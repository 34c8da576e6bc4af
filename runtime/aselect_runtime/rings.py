"""Frame buffers that are used again as soon as nobody looks at them."""

from __future__ import annotations

import sys

import numpy as np

from aselect_runtime.frames import Frame


def _references_of_an_unused() -> int:
    """What sys.getrefcount says of a buffer that only a ring holds; Python's versions differ."""
    for buffer in [np.empty(1, np.uint8)]:
        return sys.getrefcount(buffer)
    raise AssertionError


FREE = _references_of_an_unused()


class FrameRing:
    """Hands out uint8 arrays; one whose last view has gone is handed out again. For one thread.

    Every view of an array, and every cv2.Mat made from it, holds a reference to the array: no consumer has to give a
    frame back, and none can see it change. (Where nothing is free, a new array is made and the ring keeps `size`.)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers: list[Frame] = []

    def take(self, shape: tuple[int, ...]) -> Frame:
        """An uninitialised array of this shape."""
        if self._buffers and self._buffers[0].shape != shape:
            self._buffers.clear()  # the source changed its resolution
        for buffer in self._buffers:
            if sys.getrefcount(buffer) == FREE:
                return buffer
        fresh: Frame = np.empty(shape, np.uint8)
        if len(self._buffers) < self._size:
            self._buffers.append(fresh)
        return fresh
