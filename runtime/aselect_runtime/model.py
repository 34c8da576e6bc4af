"""From a path to a running model: an export folder, or a lone .onnx file that explains itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from aselect_runtime.engines import open_engine, runnable
from aselect_runtime.engines.tensorrt_session import TensorRtSession
from aselect_runtime.errors import EngineError, GateError, InputError, IntegrityError, MissingDependencyError
from aselect_runtime.folder import load_folder
from aselect_runtime.options import Device
from aselect_runtime.progress import Silence, Watch
from aselect_runtime.records import Manifest
from aselect_runtime.sessions import openvino as openvino_session
from aselect_runtime.sessions.onnx import METADATA_KEY, OnnxSession, available
from aselect_runtime.sessions.openvino import OpenVinoSession
from aselect_runtime.sessions.session import Session


@dataclass(frozen=True)
class _Model:
    """What a backend is given: the graph's path, and the export folder with its manifest where it came in one."""

    graph: Path
    folder: Path | None
    manifest: Manifest | None
    watch: Watch


_AnySession = OnnxSession | OpenVinoSession | TensorRtSession


@dataclass(frozen=True)
class _Backend:
    usable: Callable[[_Model], bool]
    """Whether it is worth a try; false where its packages or its hardware are not here."""
    open: Callable[[_Model], _AnySession]


def open_model(path: Path, device: Device = "auto", watch: Watch | None = None) -> tuple[Manifest, Session]:
    """Load an export folder or a .onnx file.

    `auto` takes the fastest backend that is here and takes the model; the session's `device` says which. On TensorRT
    the folder's engine is built first if there is none for this GPU: `watch` is told how that goes. Raises InputError
    (no such model), RecordError (bad manifest), IntegrityError (corrupt, or not what the manifest describes),
    MissingDependencyError or EngineError (the device cannot be had), GateError (no engine answers right).
    """
    watch = watch or Silence()
    if path.is_dir():
        manifest, graph = load_folder(path)
        session = _open(_Model(graph, path, manifest, watch), device)
        session.check(manifest)
        return manifest, session
    if not path.exists():
        raise InputError(f"{path}: no such model, expected an export folder or a .onnx file; run aselect-export")
    if path.suffix != ".onnx":
        raise InputError(f"{path}: got a {path.suffix or 'suffixless'} file, expected an export folder or a .onnx file")
    return _from_file(path, device, watch)


def _from_file(path: Path, device: Device, watch: Watch) -> tuple[Manifest, Session]:
    session = _open(_Model(path, None, None, watch), device)
    text = None if isinstance(session, TensorRtSession) else session.metadata().get(METADATA_KEY)
    if text is None:
        raise IntegrityError(
            f"{path}: got a model without {METADATA_KEY!r} in its metadata, expected one that aselect-export wrote; "
            "give the export folder instead"
        )
    manifest = Manifest.parse(text, str(path))
    session.check(manifest)
    return manifest, session


def _open(model: _Model, device: Device) -> _AnySession:
    """The model on `device`, or for `auto` on the first backend that takes it."""
    if device != "auto":
        return _BACKENDS[device].open(model)
    usable = [backend for backend in _BACKENDS.values() if backend.usable(model)]
    for backend in usable[:-1]:
        # What one backend cannot load, the next may, or else says better why not.
        try:
            return backend.open(model)
        except (EngineError, GateError, IntegrityError, MissingDependencyError) as error:
            model.watch.say(f"warning: {error}; taking the next backend")
    return usable[-1].open(model)


def _tensorrt(model: _Model) -> TensorRtSession:
    if model.folder is None or model.manifest is None:
        raise InputError(
            f"{model.graph}: got the device tensorrt and a lone .onnx file, expected an export folder, which keeps the "
            "engines; give the folder, or use the device cuda",
            parameter="device",
        )
    return open_engine(model.folder, model.manifest, model.watch)


def _cuda(model: _Model) -> OnnxSession:
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
