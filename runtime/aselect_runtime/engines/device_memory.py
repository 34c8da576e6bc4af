"""What a TensorRT session needs of CUDA, as one small protocol; cuda-python stands behind it, or pycuda."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

HostBuffer = NDArray[np.uint8]


class DeviceMemory(Protocol):
    """Buffers, streams, events and graphs of the first GPU.

    Every call comes from the thread that called `attach`. Addresses and handles are integers. A copy or a launch may
    be under way until its stream, or an event recorded after it, was waited for; until then neither of its buffers
    may be freed, and a host buffer must not be read (`copy_out`) or written (`copy_in`). Errors are EngineError.
    """

    name: str
    """The package behind it."""

    def attach(self) -> None:
        """Make the GPU current in this thread."""

    def detach(self) -> None:
        """Undo `attach`; everything else has been released before."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the device."""

    def free(self, address: int) -> None:
        """Release what `allocate` gave."""

    def allocate_pinned(self, size: int) -> HostBuffer:
        """`size` bytes of page-locked host memory, which alone is copied asynchronously."""

    def free_pinned(self, buffer: HostBuffer) -> None:
        """Release what `allocate_pinned` gave."""

    def copy_in(self, address: int, buffer: HostBuffer, stream: int) -> None:
        """Begin to copy all of `buffer` to the device."""

    def copy_out(self, buffer: HostBuffer, address: int, stream: int) -> None:
        """Begin to fill all of `buffer` from the device."""

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""

    def synchronize_stream(self, stream: int) -> None:
        """Wait until all work of the stream is done."""

    def destroy_stream(self, stream: int) -> None:
        """Release a stream, whose work is done."""

    def create_event(self) -> int:
        """An event without timing."""

    def record_event(self, event: int, stream: int) -> None:
        """Have the event happen once the stream's work up to here is done."""

    def wait_event(self, stream: int, event: int) -> None:
        """Have the stream's work from here on wait for the event's latest recording."""

    def synchronize_event(self, event: int) -> None:
        """Wait until the event's latest recording has happened."""

    def destroy_event(self, event: int) -> None:
        """Release an event."""

    def begin_capture(self, stream: int) -> None:
        """Collect the stream's work from here on instead of doing it; EngineError where that cannot be had."""

    def end_capture(self, stream: int) -> int:
        """A graph of the collected work, ready to launch."""

    def launch_graph(self, graph: int, stream: int) -> None:
        """Begin to do a graph's work."""

    def destroy_graph(self, graph: int) -> None:
        """Release a graph that is not running."""


def byte_view(buffer: HostBuffer, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The bytes of a host buffer seen as an array."""
    return buffer.view(dtype).reshape(shape)
