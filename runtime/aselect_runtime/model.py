"""From a path to a running model: an export folder, or a lone .onnx file that explains itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import overload

import numpy as np

from aselect_runtime.engines import open_engine, runnable
from aselect_runtime.engines.tensorrt_session import TensorRtSession
from aselect_runtime.errors import EngineError, GateError, InputError, IntegrityError, MissingDependencyError
from aselect_runtime.folder import load_folder
from aselect_runtime.frames import Frame, resize
from aselect_runtime.options import Device
from aselect_runtime.pipeline.iterating import iterate_pipeline
from aselect_runtime.pipeline.timing import lap
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Manifest
from aselect_runtime.results import MEMORY, Captured, Result, check_answer
from aselect_runtime.sessions import openvino as openvino_session
from aselect_runtime.sessions.onnx import METADATA_KEY, OnnxSession, available
from aselect_runtime.sessions.openvino import OpenVinoSession
from aselect_runtime.sessions.session import Session
from aselect_runtime.sources import Source

log = logging.getLogger(__name__)


class Model:
    """An exported model, ready to run; a context manager that closes its session at the end.

    `path` is an export folder or a .onnx file; for `device`, `progress` and what is raised see `open_model`. Threads
    that call one model wait for each other; a stream has it to itself.
    """

    def __init__(self, path: str | Path, device: Device = "auto", *, progress: Progress = silent) -> None:
        self.manifest, self._session = open_model(path, device, progress)
        self._closed = False
        self._run: Generator[Result, None, None] | None = None
        self._lock = Lock()

    @property
    def device(self) -> str:
        """What it runs on: `cpu` (ONNX Runtime), `cuda`, `tensorrt` or `openvino`."""
        return self._session.device

    @overload
    def __call__(self, frames: Frame) -> Result: ...

    @overload
    def __call__(self, frames: Sequence[Frame]) -> list[Result]: ...

    def __call__(self, frames: Frame | Sequence[Frame]) -> Result | list[Result]:
        """The result of a frame, BGR uint8 [H, W, 3] of any size; of a list of frames a list of results.

        A list runs in batches of the size that the model was exported with, the last one padded; its frames may have
        different sizes. Raises InputError (no such frame, a closed model, one that a stream uses) and EngineError.
        """
        single = not isinstance(frames, (list, tuple))
        given = [_checked(frame, index) for index, frame in enumerate([frames] if single else frames)]
        size = self.manifest.input.shape[0]
        with self._lock:
            self._check_free()
            found = [each for at in range(0, len(given), size) for each in self._batch(given[at : at + size], at)]
        return found[0] if single else found

    def stream(
        self, source: str | Source, *, smooth: float | None = None, skip_still: float | None = None
    ) -> Generator[Result, None, None]:
        """Yield the results of a camera, stream, video or folder: a URI, see `open_source`, or an object.

        Of a live source, which is connected again whenever it is lost, the newest result wins; of files every frame
        has its result. `smooth` averages answers over time: the weight of a new frame, 0 to 1. `skip_still` repeats the
        last answer while nothing changes by more than that share, for example 0.01. Raises what `run_pipeline` raises.
        Closing the generator, or the model, closes the source and ends all threads.
        """
        with self._lock:
            self._check_free()
            run = self._run = iterate_pipeline(
                self.manifest, self._session, source, smooth=smooth, skip_still=skip_still
            )
        try:
            yield from run
        finally:
            self._run = None

    def close(self) -> None:
        """End a stream that is still open and release the engine; call it where the stream is iterated."""
        if self._run is not None:
            self._run.close()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_free(self) -> None:
        if self._closed:
            raise InputError("got a model that is closed, expected an open one; open another Model")
        if self._run is not None:
            raise InputError("got a model that a stream uses, expected a free one; close the stream, or open another")

    def _batch(self, frames: Sequence[Frame], first: int) -> Iterator[Result]:
        """The results of at most one batch; `first` is the number of its first frame."""
        batch, height, width, channels = self.manifest.input.shape
        pixels: Frame = np.zeros((batch, height, width, channels), np.uint8)
        resize_ms = []
        for place, frame in enumerate(frames):
            with lap() as spent:
                resize(frame, (height, width), self.manifest.resize, pixels[place])
            resize_ms.append(round(spent.ms, 3))
        with lap() as inference:
            outputs = self._session.infer(pixels)
        now = time.time()
        for place, frame in enumerate(frames):
            captured = Captured(frame, first + place, f"frame-{first + place:06d}", MEMORY)
            answer = {name: array[place] for name, array in outputs.items()}
            check_answer(captured, answer, self.manifest)
            latency = {"resize": resize_ms[place], "infer": round(inference.ms, 3)}
            yield Result(captured, answer, self.manifest, now, latency, pixels=pixels[place])


def _checked(frame: object, index: int) -> Frame:
    """The frame; raises InputError unless it is one."""
    if isinstance(frame, np.ndarray):
        if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
            return frame
        got = f"{frame.dtype} {list(frame.shape)}"
    else:
        got = "None, which cv2.imread gives where it cannot read" if frame is None else type(frame).__name__
    raise InputError(
        f"frame {index}: got {got}, expected uint8 [H, W, 3] in the order BGR; give a frame as cv2.imread reads it, or "
        "a list of such frames"
    )


@dataclass(frozen=True)
class _Asked:
    """What a backend is asked to open: a graph, with its export folder and manifest where it came in one."""

    graph: Path
    folder: Path | None
    manifest: Manifest | None
    progress: Progress


_AnySession = OnnxSession | OpenVinoSession | TensorRtSession


@dataclass(frozen=True)
class _Backend:
    usable: Callable[[_Asked], bool]
    """Whether it is worth a try; false where its packages or its hardware are not here."""
    open: Callable[[_Asked], _AnySession]


def open_model(path: str | Path, device: Device = "auto", progress: Progress = silent) -> tuple[Manifest, Session]:
    """Load an export folder or a .onnx file.

    `auto` takes the fastest backend that is here and takes the model; the session's `device` says which. On TensorRT
    the folder's engine is built first if there is none for this GPU: `progress` follows that. Raises InputError
    (no such model), RecordError (bad manifest), IntegrityError (corrupt, or not what the manifest describes),
    MissingDependencyError or EngineError (the device cannot be had), GateError (no engine answers right).
    """
    path = Path(path)
    if path.is_dir():
        manifest, graph = load_folder(path)
        session = _open(_Asked(graph, path, manifest, progress), device)
        session.check(manifest)
        return manifest, session
    if not path.exists():
        raise InputError(f"{path}: no such model, expected an export folder or a .onnx file; run aselect-export")
    if path.suffix != ".onnx":
        raise InputError(f"{path}: got a {path.suffix or 'suffixless'} file, expected an export folder or a .onnx file")
    return _from_file(path, device, progress)


def _from_file(path: Path, device: Device, progress: Progress) -> tuple[Manifest, Session]:
    session = _open(_Asked(path, None, None, progress), device)
    text = None if isinstance(session, TensorRtSession) else session.metadata().get(METADATA_KEY)
    if text is None:
        raise IntegrityError(
            f"{path}: got a model without {METADATA_KEY!r} in its metadata, expected one that aselect-export wrote; "
            "give the export folder instead"
        )
    manifest = Manifest.parse(text, str(path))
    session.check(manifest)
    return manifest, session


def _open(model: _Asked, device: Device) -> _AnySession:
    """The model on `device`, or for `auto` on the first backend that takes it."""
    if device != "auto":
        return _BACKENDS[device].open(model)
    usable = [backend for backend in _BACKENDS.values() if backend.usable(model)]
    for backend in usable[:-1]:
        # What one backend cannot load, the next may, or else says better why not.
        try:
            return backend.open(model)
        except (EngineError, GateError, IntegrityError, MissingDependencyError) as error:
            log.warning("%s; taking the next backend", error)
    return usable[-1].open(model)


def _tensorrt(model: _Asked) -> TensorRtSession:
    if model.folder is None or model.manifest is None:
        raise InputError(
            f"{model.graph}: got the device tensorrt and a lone .onnx file, expected an export folder, which keeps the "
            "engines; give the folder, or use the device cuda",
            parameter="device",
        )
    return open_engine(model.folder, model.manifest, model.progress)


def _cuda(model: _Asked) -> OnnxSession:
    there = available()
    if "cuda" not in there:
        raise MissingDependencyError(
            f"got the device cuda, expected one that is here ({', '.join(there)}); pip install onnxruntime-gpu in "
            "place of onnxruntime, or use the device auto",
            parameter="device",
        )
    session = OnnxSession(model.graph, "cuda")
    if session.device != "cuda":  # ONNX Runtime goes on without a provider that does not load, and does not say so
        session.close()
        raise EngineError(
            "got an onnxruntime-gpu that cannot load its CUDA libraries, expected CUDA and cuDNN of the versions that "
            "it was built for; install those, or use the device auto",
            parameter="device",
        )
    return session


# From the fastest to the one that is always there.
_BACKENDS: dict[str, _Backend] = {
    "tensorrt": _Backend(lambda model: model.folder is not None and runnable() is not None, _tensorrt),
    "cuda": _Backend(lambda _: find_spec("onnxruntime") is not None and "cuda" in available(), _cuda),
    "openvino": _Backend(lambda _: openvino_session.available(), lambda model: OpenVinoSession(model.graph)),
    "cpu": _Backend(lambda _: True, lambda model: OnnxSession(model.graph, "cpu")),
}
