"""Frame buffers that are reused as soon as nothing refers to them."""

from __future__ import annotations

import sys

import numpy as np

from aselect_runtime.frames import Frame


def _references_of_an_unused() -> int:
    """The value of sys.getrefcount for a buffer that only a ring refers to; it differs between Python versions."""
    for buffer in [np.empty(1, np.uint8)]:
        return sys.getrefcount(buffer)
    raise AssertionError


FREE = _references_of_an_unused()


class FrameRing:
    """A pool of uint8 arrays; an array is reused when no view of it is left. For one thread.

    Every view of an array, and every cv2.Mat made from it, holds a reference to the array: consumers need not return a
    frame, and it does not change while they use it. If no array is free, a new one is allocated; the pool keeps at most
    `size` arrays.
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
