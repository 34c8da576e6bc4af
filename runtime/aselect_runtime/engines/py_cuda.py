"""DeviceMemory implemented with pycuda, which has no CUDA graphs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from aselect_runtime.engines.device_memory import HostBuffer
from aselect_runtime.errors import EngineError


class PyCuda:
    """See DeviceMemory. pycuda frees a resource when its object is garbage-collected, so the objects are kept here."""

    name = "pycuda"

    def __init__(self) -> None:
        self._driver: Any = importlib.import_module("pycuda.driver")
        self._context: Any = None
        self._kept: dict[int, Any] = {}

    def attach(self) -> None:
        with self._cuda_errors("find the GPU"):
            self._driver.init()
            # TensorRT uses the primary context; a new pycuda context would hide it.
            self._context = self._driver.Device(0).retain_primary_context()
            self._context.push()

    def detach(self) -> None:
        self._kept.clear()
        self._context.pop()
        self._context = None

    def allocate(self, size: int) -> int:
        with self._cuda_errors(f"allocate {size} bytes on the GPU"):
            allocation = self._driver.mem_alloc(size)
        self._kept[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._kept.pop(address).free()

    def allocate_pinned(self, size: int) -> HostBuffer:
        with self._cuda_errors(f"pin {size} bytes of memory"):
            buffer: HostBuffer = self._driver.pagelocked_empty(size, np.uint8)
        return buffer

    def free_pinned(self, buffer: HostBuffer) -> None:
        allocation: Any = buffer.base
        allocation.free()

    def copy_in(self, address: int, buffer: HostBuffer, stream: int) -> None:
        with self._cuda_errors("copy to the GPU"):
            self._driver.memcpy_htod_async(address, buffer, self._kept[stream])

    def copy_out(self, buffer: HostBuffer, address: int, stream: int) -> None:
        with self._cuda_errors("copy from the GPU"):
            self._driver.memcpy_dtoh_async(buffer, address, self._kept[stream])

    def create_stream(self) -> int:
        with self._cuda_errors("make a stream"):
            stream = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        self._kept[int(stream.handle)] = stream
        return int(stream.handle)

    def synchronize_stream(self, stream: int) -> None:
        with self._cuda_errors("finish its work"):
            self._kept[stream].synchronize()

    def destroy_stream(self, stream: int) -> None:
        del self._kept[stream]

    def create_event(self) -> int:
        with self._cuda_errors("make an event"):
            event = self._driver.Event(self._driver.event_flags.DISABLE_TIMING)
        self._kept[id(event)] = event
        return id(event)

    def record_event(self, event: int, stream: int) -> None:
        with self._cuda_errors("record an event"):
            self._kept[event].record(self._kept[stream])

    def wait_event(self, stream: int, event: int) -> None:
        with self._cuda_errors("order its work"):
            self._kept[stream].wait_for_event(self._kept[event])

    def synchronize_event(self, event: int) -> None:
        with self._cuda_errors("finish its work"):
            self._kept[event].synchronize()

    def destroy_event(self, event: int) -> None:
        del self._kept[event]

    def begin_capture(self, stream: int) -> None:  # noqa: ARG002
        raise EngineError("got pycuda, expected cuda-python for CUDA graphs; pip install cuda-bindings")

    def end_capture(self, stream: int) -> int:
        raise AssertionError(f"stream {stream}: no capture began")

    def launch_graph(self, graph: int, stream: int) -> None:
        raise AssertionError(f"stream {stream}: no graph {graph}")

    def destroy_graph(self, graph: int) -> None:
        raise AssertionError(f"no graph {graph}")

    @contextmanager
    def _cuda_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.MemoryError as error:
            raise EngineError(
                f"CUDA could not {what}: got {error}, expected enough memory; close other programs that use the GPU, "
                "or use a smaller input size or batch",
                parameter=("imgsz", "batch"),
            ) from error
        except self._driver.Error as error:
            raise EngineError(
                f"CUDA could not {what}: got {error}, expected success; run aselect-doctor, or use the device cpu",
                parameter="device",
            ) from error
