"""The CUDA functions that a TensorRT session needs, as a protocol; implemented with cuda-python or pycuda."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

HostBuffer = NDArray[np.uint8]


class DeviceMemory(Protocol):
    """Buffers, streams, events and graphs of the first GPU.

    Every call comes from the thread that called `attach`. Addresses and handles are integers. A copy or a launch is
    asynchronous: until its stream, or an event recorded after it, has been waited for, none of its buffers may be
    freed, and a host buffer must not be read (`copy_out`) or written (`copy_in`). Errors are EngineError.
    """

    name: str
    """Name of the package that implements it."""

    def attach(self) -> None:
        """Make the GPU current in this thread."""

    def detach(self) -> None:
        """Undo `attach`; everything else must have been released before."""

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the device; returns the address."""

    def free(self, address: int) -> None:
        """Release memory from `allocate`."""

    def allocate_pinned(self, size: int) -> HostBuffer:
        """Allocate `size` bytes of page-locked host memory, as asynchronous copies need."""

    def free_pinned(self, buffer: HostBuffer) -> None:
        """Release memory from `allocate_pinned`."""

    def copy_in(self, address: int, buffer: HostBuffer, stream: int) -> None:
        """Start to copy all of `buffer` to the device."""

    def copy_out(self, buffer: HostBuffer, address: int, stream: int) -> None:
        """Start to fill all of `buffer` from the device."""

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""

    def synchronize_stream(self, stream: int) -> None:
        """Wait until all work of the stream is done."""

    def destroy_stream(self, stream: int) -> None:
        """Release a stream, whose work must be done."""

    def create_event(self) -> int:
        """Create an event without timing."""

    def record_event(self, event: int, stream: int) -> None:
        """Record the event in the stream: it completes when the stream's work so far is done."""

    def wait_event(self, stream: int, event: int) -> None:
        """Make the stream's further work wait for the event's latest recording."""

    def synchronize_event(self, event: int) -> None:
        """Wait until the event's latest recording is complete."""

    def destroy_event(self, event: int) -> None:
        """Release an event."""

    def begin_capture(self, stream: int) -> None:
        """Capture the stream's further work as a CUDA graph; raises EngineError if that is not supported."""

    def end_capture(self, stream: int) -> int:
        """End the capture; returns a graph that is ready to launch."""

    def launch_graph(self, graph: int, stream: int) -> None:
        """Start a graph's work in the stream."""

    def destroy_graph(self, graph: int) -> None:
        """Release a graph that is not running."""


def byte_view(buffer: HostBuffer, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A view of a host buffer's bytes as an array."""
    return buffer.view(dtype).reshape(shape)
