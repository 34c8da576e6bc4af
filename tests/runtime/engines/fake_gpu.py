"""A machine with a GPU that is not there: a strict stand-in for the driver, and a TensorRT that runs ONNX on the CPU.

`FakeDriver` implements DeviceMemory and does no work before it is waited for, and then only what the wait requires, so
that a missing dependency gives wrong results every time instead of sometimes. It reports every misuse: leaks, double
frees, use after free, use from another thread, buffers touched while a copy is under way.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from aselect_runtime.engines import building, gpu, tensorrt_session
from aselect_runtime.engines.device_memory import HostBuffer
from aselect_runtime.errors import EngineError
from aselect_runtime.sessions.onnx import OnnxSession

POISON = 0xCD
MAGIC = b"fake plan\n"


class MisuseError(AssertionError):
    """The session did what leads to wrong results or a crash with a real driver."""


@dataclass
class Step:
    """A piece of a stream's work."""

    name: str
    run: Callable[[], None]
    touches: frozenset[int]
    after: tuple[Step, ...] = ()
    done: bool = False


@dataclass
class FakeDriver:
    """See DeviceMemory."""

    capture_works: bool = True
    capacity: int = 1 << 30
    fail_at: int | None = None
    """The number of the call that fails, counted from 0."""
    lost: bool = False
    """Whether every call fails from now on, as after an illegal address on a real GPU."""
    name: str = "fake"
    calls: int = 0
    trace: list[str] = field(default_factory=list)
    """The steps that were done, in order."""
    _owner: int | None = None
    _memory: dict[int, bytearray] = field(default_factory=dict)
    _pinned: dict[int, HostBuffer] = field(default_factory=dict)
    _streams: dict[int, list[Step]] = field(default_factory=dict)
    _events: dict[int, Step | None] = field(default_factory=dict)
    _graphs: dict[int, list[Step]] = field(default_factory=dict)
    _capturing: tuple[int, list[Step]] | None = None
    _handles: int = 0x1000

    def attach(self) -> None:
        self._call("attach", owned=False)
        self._require(self._owner is None, "attached twice")
        self._owner = threading.get_ident()

    def detach(self) -> None:
        self._call("detach", may_fail=False)
        self.check_clean(attached=True)
        self._owner = None

    def allocate(self, size: int) -> int:
        self._call("allocate")
        if sum(map(len, self._memory.values())) + size > self.capacity:
            raise EngineError(f"CUDA could not allocate {size} bytes on the GPU: got error 2 (out of memory)")
        address = self._handle(size)
        self._memory[address] = bytearray([POISON]) * size
        return address

    def free(self, address: int) -> None:
        self._call("free", may_fail=False)
        self._require(address in self._memory, "a double free of device memory")
        self._require(address not in self._busy(), "device memory freed while work on it is under way")
        del self._memory[address]

    def allocate_pinned(self, size: int) -> HostBuffer:
        self._call("allocate_pinned")
        buffer: HostBuffer = np.full(size, POISON, np.uint8)
        self._pinned[buffer.ctypes.data] = buffer
        return buffer

    def free_pinned(self, buffer: HostBuffer) -> None:
        self._call("free_pinned", may_fail=False)
        self._require(buffer.ctypes.data in self._pinned, "a double free of pinned memory")
        self._require(buffer.ctypes.data not in self._busy(), "pinned memory freed while a copy is under way")
        self._pinned.pop(buffer.ctypes.data)[...] = POISON

    def copy_in(self, address: int, buffer: HostBuffer, stream: int) -> None:
        self._call("copy_in")
        self._check_copy(address, buffer)
        content = buffer.tobytes()

        def run() -> None:
            self._require(buffer.tobytes() == content, "a host buffer written while it was being copied")
            self._memory[address][:] = content

        self.enqueue("copy_in", stream, run, (address, buffer.ctypes.data))

    def copy_out(self, buffer: HostBuffer, address: int, stream: int) -> None:
        self._call("copy_out")
        self._check_copy(address, buffer)
        buffer[...] = POISON  # what is read before the copy is done is never right by luck

        def run() -> None:
            buffer[...] = np.frombuffer(self._memory[address], np.uint8)

        self.enqueue("copy_out", stream, run, (address, buffer.ctypes.data))

    def create_stream(self) -> int:
        self._call("create_stream")
        stream = self._handle()
        self._streams[stream] = []
        return stream

    def synchronize_stream(self, stream: int) -> None:
        self._call("synchronize_stream", may_fail=False)
        self._require(self._capturing is None, "waiting while capturing")
        for step in list(self._queue(stream)):
            self._do(step)

    def destroy_stream(self, stream: int) -> None:
        self._call("destroy_stream", may_fail=False)
        self._require(all(step.done for step in self._queue(stream)), "a stream destroyed with work under way")
        del self._streams[stream]

    def create_event(self) -> int:
        self._call("create_event")
        event = self._handle()
        self._events[event] = None
        return event

    def record_event(self, event: int, stream: int) -> None:
        self._call("record_event")
        self._require(event in self._events, "an event used after it was destroyed")
        self._events[event] = self.enqueue("record", stream, lambda: None, ())

    def wait_event(self, stream: int, event: int) -> None:
        self._call("wait_event")
        self._require(event in self._events, "an event used after it was destroyed")
        recording = self._events[event]
        self.enqueue("wait", stream, lambda: None, (), () if recording is None else (recording,))

    def synchronize_event(self, event: int) -> None:
        self._call("synchronize_event")
        self._require(event in self._events, "an event used after it was destroyed")
        if (recording := self._events[event]) is not None:
            self._do(recording)

    def destroy_event(self, event: int) -> None:
        self._call("destroy_event", may_fail=False)
        self._require(event in self._events, "an event destroyed twice")
        del self._events[event]

    def begin_capture(self, stream: int) -> None:
        self._call("begin_capture")
        if not self.capture_works:
            raise EngineError("CUDA could not capture a graph: got error 900, expected success")
        self._require(self._capturing is None, "capturing twice at once")
        self._require(all(step.done for step in self._queue(stream)), "capturing with work under way")
        self._capturing = (stream, [])

    def end_capture(self, stream: int) -> int:
        self._require(self._capturing is not None and self._capturing[0] == stream, "ending what was not begun")
        assert self._capturing is not None
        _, steps = self._capturing
        self._capturing = None
        self._call("end_capture")
        graph = self._handle()
        self._graphs[graph] = steps
        return graph

    def launch_graph(self, graph: int, stream: int) -> None:
        self._call("launch_graph")
        self._require(graph in self._graphs, "a graph launched after it was destroyed")
        for step in self._graphs[graph]:
            self.enqueue(step.name, stream, step.run, step.touches | {graph})

    def destroy_graph(self, graph: int) -> None:
        self._call("destroy_graph", may_fail=False)
        self._require(graph in self._graphs, "a graph destroyed twice")
        self._require(graph not in self._busy(), "a graph destroyed while it runs")
        del self._graphs[graph]

    def enqueue(
        self, name: str, stream: int, run: Callable[[], None], touches: Iterable[int], after: tuple[Step, ...] = ()
    ) -> Step:
        """Put work on a stream, as a kernel launch does."""
        queue = self._queue(stream)
        if self._capturing is not None and self._capturing[0] == stream:
            queue = self._capturing[1]
        queue[:] = [step for step in queue if not step.done or queue is not self._streams[stream]]
        step = Step(name, run, frozenset(touches), after + tuple(queue[-1:]))
        queue.append(step)
        return step

    def view(self, address: int) -> bytearray:
        """The memory at an address, for work that is being done."""
        self._require(address in self._memory, "device memory used after it was freed")
        return self._memory[address]

    def check_clean(self, *, attached: bool = False) -> None:
        """Raise MisuseError unless everything has been released."""
        left: dict[str, Sized] = {
            "device memory": self._memory,
            "pinned memory": self._pinned,
            "streams": self._streams,
            "events": self._events,
            "graphs": self._graphs,
        }
        leaks = [f"{len(things)} {kind}" for kind, things in left.items() if things]
        self._require(not leaks, f"leaks: {', '.join(leaks)}")
        self._require(attached or self._owner is None, "never detached")

    def _do(self, step: Step) -> None:
        if step.done:
            return
        for earlier in step.after:
            self._do(earlier)
        for address in step.touches:
            known = address in self._memory or address in self._pinned or address in self._graphs
            self._require(known, "a buffer used after it was freed")
        step.run()
        step.done = True
        if step.name not in ("record", "wait"):
            self.trace.append(step.name)

    def _busy(self) -> set[int]:
        return {
            touched for queue in self._streams.values() for step in queue if not step.done for touched in step.touches
        }

    def _check_copy(self, address: int, buffer: HostBuffer) -> None:
        self._require(buffer.ctypes.data in self._pinned, "an asynchronous copy of memory that is not pinned")
        self._require(len(self.view(address)) == buffer.nbytes, "a copy of another size than its buffer")

    def _queue(self, stream: int) -> list[Step]:
        self._require(stream in self._streams, "a stream used after it was destroyed")
        return self._streams[stream]

    def _handle(self, size: int = 1) -> int:
        self._handles += size + 0x100
        return self._handles

    def _call(self, name: str, *, owned: bool = True, may_fail: bool = True) -> None:
        if owned:
            self._require(self._owner == threading.get_ident(), f"{name} in another thread than the owner's")
        number, self.calls = self.calls, self.calls + 1
        if self.lost:
            raise EngineError(f"CUDA could not {name}: got error 700, expected success")
        if may_fail and number == self.fail_at:
            raise EngineError(f"CUDA could not {name}: got error 719, expected success")

    def _require(self, condition: bool, fault: str) -> None:
        if not condition:
            raise MisuseError(fault)


class FakeTensorRt:
    """What the engines package touches of `tensorrt`. A plan is the ONNX graph behind a line that says for whom."""

    __name__ = "tensorrt"

    class ILogger:
        class Severity:
            INTERNAL_ERROR, ERROR = 0, 1

        def __init__(self) -> None:
            pass

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

    class TensorIOMode:
        INPUT, OUTPUT = 1, 2

    LayerInformationFormat = SimpleNamespace(JSON=1)
    ProfilingVerbosity = SimpleNamespace(LAYER_NAMES_ONLY=0, NONE=1, DETAILED=2)
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    MemoryPoolType = SimpleNamespace(WORKSPACE=0)

    def __init__(self, driver: FakeDriver, version: str = "10.13.3.9") -> None:
        self.driver, self.__version__ = driver, version
        self.spoiled: set[str] = set()
        """Graphs (by file name) that are built into engines which answer with one class everywhere."""
        self.refused: set[str] = set()
        """Graphs that cannot be built."""
        self.widened: set[str] = set()
        """Graphs that are silently built in FP32, whatever they say."""
        self.built: list[str] = []
        self.loaded: list[bytes] = []

    def nptype(self, dtype: Any) -> Any:
        return dtype

    def Builder(self, log: Any) -> _FakeBuilder:  # noqa: N802
        return _FakeBuilder(self, log)

    def OnnxParser(self, network: SimpleNamespace, log: Any) -> SimpleNamespace:  # noqa: ARG002, N802
        def parse(path: str) -> bool:
            network.path = Path(path)
            return True

        return SimpleNamespace(parse_from_file=parse)

    def Runtime(self, log: Any) -> SimpleNamespace:  # noqa: N802
        def deserialize(plan: bytes) -> _FakeEngine | None:
            self.loaded.append(plan)
            head, _, graph = plan.removeprefix(MAGIC).partition(b"\n")
            if not plan.startswith(MAGIC) or not graph:
                log.log(log.Severity.ERROR, "Serialization assertion magicTag failed: engine plan is truncated")
                return None
            made_for = json.loads(head)
            if made_for["version"] != self.__version__:
                log.log(log.Severity.ERROR, "Version tag does not match; serialized with another version")
                return None
            return _FakeEngine(self, graph, made_for, log)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class _FakeBuilder:
    def __init__(self, trt: FakeTensorRt, log: Any) -> None:
        self._trt, self._log = trt, log

    def create_network(self, flags: int) -> SimpleNamespace:
        assert flags == 2, "the network must be strongly typed"
        return SimpleNamespace(path=None)

    def create_builder_config(self) -> SimpleNamespace:
        config = SimpleNamespace(progress_monitor=None, set_memory_pool_limit=lambda *_: None, profiling_verbosity=0)
        cache = SimpleNamespace(serialize=lambda: b"times")
        config.create_timing_cache = lambda *_: cache
        config.set_timing_cache = lambda *_: True
        return config

    def build_serialized_network(self, network: SimpleNamespace, config: SimpleNamespace) -> bytes | None:
        config.progress_monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete("Building engine", step):
                return None
        config.progress_monitor.phase_finish("Building engine")
        name = network.path.name
        if name in self._trt.refused:
            self._log.log(self._log.Severity.ERROR, "Could not find any implementation for node ForeignNode")
            return None
        self._trt.built.append(name)
        detailed = config.profiling_verbosity == self._trt.ProfilingVerbosity.DETAILED
        head = json.dumps({"version": self._trt.__version__, "graph": name, "detailed": detailed})
        content: bytes = MAGIC + head.encode() + b"\n" + network.path.read_bytes()
        return content


class _FakeEngine:
    def __init__(self, trt: FakeTensorRt, graph: bytes, made_for: dict[str, Any], log: Any) -> None:
        self._trt, self._spoiled, self._log = trt, made_for["graph"] in trt.spoiled, log
        self._graph, self._made_for = graph, made_for
        self._model = OnnxSession(graph, "cpu")
        session = self._model._session
        self._nodes = [*session.get_inputs(), *session.get_outputs()]
        self._inputs = len(session.get_inputs())
        self.num_io_tensors = len(self._nodes)

    def get_tensor_name(self, index: int) -> str:
        return str(self._nodes[index].name)

    def get_tensor_dtype(self, name: str) -> Any:
        return np.dtype({"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[self._node(name)[1].type])

    def get_tensor_shape(self, name: str) -> Any:
        return tuple(self._node(name)[1].shape)

    def get_tensor_mode(self, name: str) -> int:
        return (
            FakeTensorRt.TensorIOMode.INPUT if self._node(name)[0] < self._inputs else FakeTensorRt.TensorIOMode.OUTPUT
        )

    def create_engine_inspector(self) -> SimpleNamespace:
        """It reports types only of engines that were built with detailed profiling, as the real one."""
        written = {1: "Float", 6: "Int32", 3: "Int8", 2: "UInt8", 9: "Bool", 7: "Int64", 10: "Half"}
        kinds = {tensor.data_type for tensor in onnx.load_from_string(self._graph).graph.initializer} | {1}
        if self._made_for["graph"] in self._trt.widened:
            kinds = {1}
        layers: list[Any] = [f"layer {kind}" for kind in sorted(kinds)]
        if self._made_for["detailed"]:
            layers = [
                {"Name": name, "Outputs": [{"Format/Datatype": written[kind]}]}
                for name, kind in zip(layers, sorted(kinds), strict=True)
            ]
        return SimpleNamespace(
            get_engine_information=lambda format: json.dumps({"Layers": layers}) if format == 1 else ""
        )

    def create_execution_context(self) -> SimpleNamespace:
        addresses: dict[str, int] = {}
        driver = self._trt.driver

        def execute(stream: int) -> bool:
            # Addresses count as they are now, not as they are when the work is done.
            now = dict(addresses)
            driver.enqueue("compute", stream, lambda: self._run(now), now.values())
            return True

        return SimpleNamespace(set_tensor_address=addresses.__setitem__, execute_async_v3=execute)

    def _run(self, addresses: dict[str, int]) -> None:
        driver = self._trt.driver
        source = self._nodes[0]
        frames = np.frombuffer(driver.view(addresses[source.name]), np.uint8).reshape(source.shape)
        for name, array in self._model.infer(frames).items():
            values = np.zeros_like(array) if self._spoiled else array
            driver.view(addresses[name])[:] = values.tobytes()

    def _node(self, name: str) -> tuple[int, Any]:
        return next((index, node) for index, node in enumerate(self._nodes) if node.name == name)


@dataclass
class Machine:
    """What a test may turn: the driver, TensorRT, and the GPU's name and compute capability."""

    driver: FakeDriver
    trt: FakeTensorRt
    name: str = "Fake Orin"
    capability: tuple[int, int] = (8, 7)


def fake_machine(monkeypatch: pytest.MonkeyPatch, version: str = "10.14.1.48") -> Machine:
    """Make this process believe that it has a GPU with TensorRT."""
    driver = FakeDriver()
    machine = Machine(driver, FakeTensorRt(driver, version))
    monkeypatch.setitem(sys.modules, "tensorrt", machine.trt)
    monkeypatch.setattr(gpu, "_driver", lambda: _FakeCuda(machine))
    for module in (building, tensorrt_session):
        monkeypatch.setattr(module, "open_memory", lambda: driver)
    return machine


class _FakeCuda:
    """libcuda, as ctypes calls it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def cuInit(self, flags: int) -> int:  # noqa: ARG002, N802
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: ARG002, N802
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: ARG002, N802
        name.value = self._machine.name.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: ARG002, N802
        value._obj.value = self._machine.capability[attribute - 75]
        return 0

    def cuDriverGetVersion(self, number: Any) -> int:  # noqa: N802
        number._obj.value = 12060
        return 0
