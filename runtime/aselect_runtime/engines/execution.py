"""One engine in GPU memory, run with two sets of buffers so that copies and computation overlap.

    frames ──copy_in──▶ [set 0] ──compute──▶ [set 0] ──copy_out──▶ outputs
                 frames ──copy_in──▶ [set 1] ──compute──▶ [set 1] ──copy_out──▶ outputs

Three streams (in, compute, out) are ordered by events, so the engine needs only one context and its memory only once.
All calls must come from one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.engines.device_memory import DeviceMemory, HostBuffer, byte_view
from aselect_runtime.engines.log import first, logger, remedy
from aselect_runtime.engines.versions import MODULES, Builder, load
from aselect_runtime.errors import EngineError
from aselect_runtime.frames import Frame

SETS = 2


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_input: bool

    @property
    def size(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass
class _Buffers:
    """One set: a device and a pinned host buffer per binding, and the events between its three steps."""

    device: dict[str, int]
    host: dict[str, HostBuffer]
    copied_in: int
    computed: int
    copied_out: int
    graph: int | None = None


class Execution:
    """A loaded engine with its buffers on the GPU. Raises EngineError."""

    def __init__(self, plan: bytes, builder: Builder, memory: DeviceMemory, name: str) -> None:
        self._memory, self._builder, self._name = memory, builder, name
        self._next = 0
        self.cuda_graph = True
        with ExitStack() as stack:
            memory.attach()
            stack.callback(memory.detach)
            self._engine, self._context = self._deserialize(plan)
            stack.callback(self._drop)
            self.bindings = tuple(_bindings(load(builder), self._engine))
            self._in, self._compute, self._out = (self._stream(stack) for _ in range(3))
            self._sets = [self._buffers(stack) for _ in range(SETS)]
            for buffers in self._sets:
                self._warm_up(stack, buffers)
            # Last in, first out: all work ends before anything that it uses is released.
            stack.callback(self._finish)
            self._release = stack.pop_all()

    def start(self, frames: Frame) -> int:
        """Start inference of one batch; returns the index of the buffer set it uses, which must be free."""
        number = self._next
        self._next = (number + 1) % SETS
        memory, buffers = self._memory, self._sets[number]
        for binding in self.bindings:
            if binding.is_input:
                byte_view(buffers.host[binding.name], binding.dtype, binding.shape)[...] = frames
                memory.copy_in(buffers.device[binding.name], buffers.host[binding.name], self._in)
        memory.record_event(buffers.copied_in, self._in)
        memory.wait_event(self._compute, buffers.copied_in)
        if buffers.graph is not None:
            memory.launch_graph(buffers.graph, self._compute)
        else:
            self._enqueue(buffers)
        memory.record_event(buffers.computed, self._compute)
        memory.wait_event(self._out, buffers.computed)
        for binding in self.bindings:
            if not binding.is_input:
                memory.copy_out(buffers.host[binding.name], buffers.device[binding.name], self._out)
        memory.record_event(buffers.copied_out, self._out)
        return number

    def finish(self, number: int) -> dict[str, NDArray[Any]]:
        """Wait for a batch that `start` began; returns copies of the outputs and frees the buffer set."""
        buffers = self._sets[number]
        self._memory.synchronize_event(buffers.copied_out)
        return {
            binding.name: byte_view(buffers.host[binding.name], binding.dtype, binding.shape).copy()
            for binding in self.bindings
            if not binding.is_input
        }

    def information(self) -> str:
        """What TensorRT's inspector says of the engine's layers, JSON."""
        trt_inspector = self._engine.create_engine_inspector()
        return str(trt_inspector.get_engine_information(load(self._builder).LayerInformationFormat.JSON))

    def close(self) -> None:
        """Wait for pending work, then release everything, even if one release fails."""
        self._release.close()

    def _deserialize(self, plan: bytes) -> tuple[Any, Any]:
        trt, log = load(self._builder), logger(self._builder)
        log.errors.clear()
        trt_runtime = trt.Runtime(log)
        trt_engine = trt_runtime.deserialize_cuda_engine(plan)
        if trt_engine is None:
            raise EngineError(
                f"{self._name}: {MODULES[self._builder]} {trt.__version__} cannot load it ({first(log.errors)}), "
                f"expected an engine built by this version for this GPU; {remedy(log.errors, 'run aselect-build')}"
            )
        trt_context = trt_engine.create_execution_context()
        if trt_context is None:
            raise EngineError(
                f"{self._name}: got no execution context ({first(log.errors)}), expected memory for it on the GPU; "
                + remedy(log.errors, "close other programs that use the GPU")
            )
        return trt_engine, trt_context

    def _drop(self) -> None:
        self._context = None
        self._engine = None

    def _stream(self, stack: ExitStack) -> int:
        stream = self._memory.create_stream()
        stack.callback(self._memory.destroy_stream, stream)
        return stream

    def _buffers(self, stack: ExitStack) -> _Buffers:
        device, host = {}, {}
        for binding in self.bindings:
            device[binding.name] = self._memory.allocate(binding.size)
            stack.callback(self._memory.free, device[binding.name])
            host[binding.name] = self._memory.allocate_pinned(binding.size)
            stack.callback(self._memory.free_pinned, host[binding.name])
            host[binding.name][...] = 0
        events = []
        for _ in range(3):
            events.append(self._memory.create_event())
            stack.callback(self._memory.destroy_event, events[-1])
        return _Buffers(device, host, *events)

    def _warm_up(self, stack: ExitStack, buffers: _Buffers) -> None:
        """Run once, because TensorRT defers work to the first run, then capture a run as a CUDA graph if possible."""
        for binding in self.bindings:
            if binding.is_input:  # zeros instead of uninitialised memory, which could hold NaN
                self._memory.copy_in(buffers.device[binding.name], buffers.host[binding.name], self._compute)
        self._enqueue(buffers)
        self._memory.synchronize_stream(self._compute)
        if self.cuda_graph:
            try:
                buffers.graph = self._captured(buffers)
            except EngineError:  # not every engine, and not every CUDA package, supports capture: run without a graph
                self.cuda_graph = False
            else:
                stack.callback(self._memory.destroy_graph, buffers.graph)

    def _captured(self, buffers: _Buffers) -> int:
        self._memory.begin_capture(self._compute)
        try:
            self._enqueue(buffers)
        except EngineError:
            with suppress(EngineError):  # the capture of the stream must be ended in any case
                self._memory.destroy_graph(self._memory.end_capture(self._compute))
            raise
        return self._memory.end_capture(self._compute)

    def _enqueue(self, buffers: _Buffers) -> None:
        trt_context, log = self._context, logger(self._builder)
        for name, address in buffers.device.items():
            trt_context.set_tensor_address(name, address)
        if not trt_context.execute_async_v3(self._compute):
            raise EngineError(
                f"{self._name}: TensorRT could not run it ({first(log.errors)}), expected results; "
                + remedy(log.errors, "run aselect-build again, or use the device cpu"),
                parameter="device",
            )

    def _finish(self) -> None:
        for stream in (self._in, self._compute, self._out):
            self._memory.synchronize_stream(stream)


def _bindings(trt: Any, trt_engine: Any) -> Iterator[Binding]:
    for index in range(trt_engine.num_io_tensors):
        name = trt_engine.get_tensor_name(index)
        yield Binding(
            name=name,
            dtype=np.dtype(trt.nptype(trt_engine.get_tensor_dtype(name))),
            shape=tuple(trt_engine.get_tensor_shape(name)),
            is_input=trt_engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        )
