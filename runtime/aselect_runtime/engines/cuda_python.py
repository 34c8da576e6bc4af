"""DeviceMemory implemented with cuda-python: `cuda.bindings.runtime`, or `cuda.cudart` before version 12.8."""

from __future__ import annotations

import ctypes
import importlib
from importlib.util import find_spec
from typing import Any

import numpy as np

from aselect_runtime.engines.device_memory import HostBuffer
from aselect_runtime.errors import EngineError

REMEDIES = {
    2: "close other programs that use the GPU, or use a smaller input size or batch",
    35: "the driver is older than cuda-python: update the driver (JetPack), or pip install 'cuda-bindings==12.9.*'",
    100: "run aselect-doctor: there is no NVIDIA GPU, or this container has no access to it (--runtime nvidia)",
    46: "another process uses the GPU exclusively; end it",
}
"""What to do about errors of cuda_runtime_api.h that a user can fix."""


def runtime_module() -> Any:
    """cuda-python's bindings of the CUDA runtime."""
    try:
        newer = find_spec("cuda.bindings.runtime") is not None
    except ImportError:
        newer = False
    return importlib.import_module("cuda.bindings.runtime" if newer else "cuda.cudart")


class CudaPython:
    """See DeviceMemory."""

    name = "cuda-python"

    def __init__(self) -> None:
        self._cuda = runtime_module()
        self._pinned: dict[int, int] = {}

    def attach(self) -> None:
        self._do("find the GPU", self._cuda.cudaSetDevice(0))

    def detach(self) -> None:
        """Does nothing: the primary context is shared with TensorRT and is kept."""

    def allocate(self, size: int) -> int:
        return int(self._do(f"allocate {size} bytes on the GPU", self._cuda.cudaMalloc(size)))

    def free(self, address: int) -> None:
        self._do("free GPU memory", self._cuda.cudaFree(address))

    def allocate_pinned(self, size: int) -> HostBuffer:
        address = int(self._do(f"pin {size} bytes of memory", self._cuda.cudaMallocHost(size)))
        buffer = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._pinned[buffer.ctypes.data] = address
        return buffer

    def free_pinned(self, buffer: HostBuffer) -> None:
        self._do("free pinned memory", self._cuda.cudaFreeHost(self._pinned.pop(buffer.ctypes.data)))

    def copy_in(self, address: int, buffer: HostBuffer, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        copied = self._cuda.cudaMemcpyAsync(address, buffer.ctypes.data, buffer.nbytes, kind, stream)
        self._do("copy to the GPU", copied)

    def copy_out(self, buffer: HostBuffer, address: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copied = self._cuda.cudaMemcpyAsync(buffer.ctypes.data, address, buffer.nbytes, kind, stream)
        self._do("copy from the GPU", copied)

    def create_stream(self) -> int:
        return int(self._do("make a stream", self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking)))

    def synchronize_stream(self, stream: int) -> None:
        self._do("finish its work", self._cuda.cudaStreamSynchronize(stream))

    def destroy_stream(self, stream: int) -> None:
        self._do("release a stream", self._cuda.cudaStreamDestroy(stream))

    def create_event(self) -> int:
        return int(self._do("make an event", self._cuda.cudaEventCreateWithFlags(self._cuda.cudaEventDisableTiming)))

    def record_event(self, event: int, stream: int) -> None:
        self._do("record an event", self._cuda.cudaEventRecord(event, stream))

    def wait_event(self, stream: int, event: int) -> None:
        self._do("order its work", self._cuda.cudaStreamWaitEvent(stream, event, 0))

    def synchronize_event(self, event: int) -> None:
        self._do("finish its work", self._cuda.cudaEventSynchronize(event))

    def destroy_event(self, event: int) -> None:
        self._do("release an event", self._cuda.cudaEventDestroy(event))

    def begin_capture(self, stream: int) -> None:
        # Thread-local mode: other threads of this process may allocate memory during the capture.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do("capture a graph", self._cuda.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> int:
        graph = self._do("capture a graph", self._cuda.cudaStreamEndCapture(stream))
        try:
            return int(self._do("instantiate a graph", self._cuda.cudaGraphInstantiate(graph, 0)))
        finally:
            self._cuda.cudaGraphDestroy(graph)

    def launch_graph(self, graph: int, stream: int) -> None:
        self._do("launch a graph", self._cuda.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        self._do("release a graph", self._cuda.cudaGraphExecDestroy(graph))

    def _do(self, what: str, result: tuple[Any, ...]) -> Any:
        """The value of a call that returned (error, value); raises EngineError."""
        error, *values = result
        code = int(error)
        if code != 0:
            text = self._cuda.cudaGetErrorString(error)[1]
            reason = text.decode() if isinstance(text, bytes) else error.name
            raise EngineError(
                f"CUDA could not {what}: got error {code} ({reason}), expected success; "
                + REMEDIES.get(code, "run aselect-doctor, or use the device cpu"),
                parameter="device",
            )
        return values[0] if values else None
