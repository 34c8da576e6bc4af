"""A session that runs a TensorRT (or TensorRT-RTX) engine on the GPU, from one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from aselect_runtime.engines.device_memory import DeviceMemory
from aselect_runtime.engines.execution import SETS, Execution
from aselect_runtime.engines.gpu import find_gpu
from aselect_runtime.engines.opening import open_memory
from aselect_runtime.engines.versions import Builder
from aselect_runtime.errors import EngineError, IntegrityError
from aselect_runtime.frames import Frame
from aselect_runtime.records import Manifest
from aselect_runtime.results import Arrays
from aselect_runtime.sessions.session import Session

T = TypeVar("T")


class PipelinedSession(Session, Protocol):
    """A session that accepts the next batch while it processes the last one: copies and computation overlap.

    `infer` is `submit` followed by `collect`, and may be called if nothing is pending.
    """

    depth: int
    """Maximum number of pending batches."""

    def submit(self, frames: Frame) -> None:
        """Start inference of uint8 [N, H, W, 3]; the array may be reused at once. EngineError if `depth` is reached."""

    def collect(self) -> Arrays:
        """Wait for the oldest pending batch; returns its outputs. Raises EngineError if none is pending."""


class TensorRtSession:
    """See PipelinedSession. The GPU is used from a separate thread, whichever thread calls.

    Raises EngineError if the engine cannot be loaded, MissingDependencyError without a CUDA package for Python.
    """

    device = "tensorrt"
    depth = SETS

    def __init__(self, plan: bytes, builder: Builder, name: str, memory: DeviceMemory | None = None) -> None:
        if memory is None:
            # Before TensorRT is imported: its runtime can crash the interpreter if there is no driver.
            if find_gpu() is None:
                raise EngineError(
                    f"{name}: got no NVIDIA driver with a GPU, expected one to run a TensorRT engine; "
                    "run aselect-doctor, or use the device cpu",
                    parameter="device",
                )
            memory = open_memory()
        self._pending: deque[int] = deque()
        self._failed = False
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "tensorrt")
        try:
            self._execution = self._owned(lambda: Execution(plan, builder, memory, name))
        except BaseException:
            self._thread.shutdown()
            raise
        self.cuda_graph = self._execution.cuda_graph
        """Whether batches are launched as CUDA graphs."""
        self._name = name

    def check(self, manifest: Manifest) -> None:
        """Raise IntegrityError unless the engine has the manifest's input and outputs, with their types and shapes."""
        got = {(b.name, str(b.dtype), b.shape, b.is_input) for b in self._execution.bindings}
        wanted = {(o.name, o.dtype, o.shape, False) for o in manifest.outputs}
        wanted.add((manifest.input.name, manifest.input.dtype, manifest.input.shape, True))
        if got != wanted:
            raise IntegrityError(
                f"{self._name}: got the inputs and outputs {sorted(got)}, expected {sorted(wanted)} from its manifest; "
                "run aselect-build again"
            )

    def information(self) -> str:
        """What TensorRT's inspector says of the engine's layers, JSON."""
        return self._owned(self._execution.information)

    def infer(self, frames: Frame) -> Arrays:
        """See Session.infer."""
        if self._pending:
            raise EngineError(
                f"got infer with {len(self._pending)} batch(es) pending, expected none; collect them first"
            )
        self.submit(frames)
        return self.collect()

    def submit(self, frames: Frame) -> None:
        """See PipelinedSession.submit."""
        if len(self._pending) >= self.depth:
            raise EngineError(
                f"got a batch with {len(self._pending)} pending, expected at most {self.depth}; collect one"
            )
        shape = next(binding.shape for binding in self._execution.bindings if binding.is_input)
        if frames.shape != shape:
            raise EngineError(
                f"got frames {list(frames.shape)}, expected {list(shape)}; resize them to the model's input"
            )
        self._pending.append(self._owned(lambda: self._execution.start(frames)))

    def collect(self) -> dict[str, NDArray[Any]]:
        """See PipelinedSession.collect."""
        if not self._pending:
            raise EngineError("got collect with nothing pending, expected a batch; submit one first")
        number = self._pending.popleft()
        return self._owned(lambda: self._execution.finish(number))

    def close(self) -> None:
        """See Session.close; further calls do nothing."""
        if self._thread is None:
            return
        try:
            self._owned(self._execution.close)
        except EngineError:
            # After a GPU error every release fails too; the error itself was raised before.
            if not self._failed:
                raise
        finally:
            self._pending.clear()
            self._thread.shutdown()
            self._thread = None

    def _owned(self, work: Callable[[], T]) -> T:
        """Run `work` in the thread that owns the GPU; returns its result."""
        if self._thread is None:
            raise EngineError("got a closed session, expected an open one; open the model again")
        try:
            return self._thread.submit(work).result()
        except EngineError:
            self._failed = True
            raise


def infer_all(session: Session, batches: Iterable[Frame]) -> Generator[Arrays, None, None]:
    """Yield the outputs of every batch in order; if the session supports it, the next batch is submitted ahead."""
    submit, collect = getattr(session, "submit", None), getattr(session, "collect", None)
    depth = getattr(session, "depth", 1)
    if submit is None or collect is None:
        yield from map(session.infer, batches)
        return
    ahead = 0
    try:
        for frames in batches:
            submit(frames)
            ahead += 1
            if ahead == depth:
                ahead -= 1
                yield collect()
        while ahead:
            ahead -= 1
            yield collect()
    finally:
        with suppress(EngineError):  # if the caller stops early, nothing may stay pending in the session
            for _ in range(ahead):
                collect()
