"""Opening a model on one of the backends: an export folder, or a .onnx file with its manifest in the metadata."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from aselect_runtime.choosing import Way, choose
from aselect_runtime.engines.gpu import find_gpu
from aselect_runtime.errors import EngineError, GateError, InputError, IntegrityError, MissingDependencyError
from aselect_runtime.files import check_files, inside, sha256
from aselect_runtime.folder import VERIFY, graph_hash, load_folder
from aselect_runtime.media import is_text, printable
from aselect_runtime.options import Device, choice
from aselect_runtime.processor import processor
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Manifest
from aselect_runtime.sessions import openvino as openvino_session
from aselect_runtime.sessions.onnx import METADATA_KEY, OnnxSession, available, has_cuda
from aselect_runtime.sessions.openvino import OpenVinoSession
from aselect_runtime.sessions.session import Session

if TYPE_CHECKING:
    from aselect_runtime.engines.tensorrt_session import TensorRtSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request:
    """What a backend opens: a graph, and its export folder and manifest if it belongs to one."""

    graph: Path
    digest: str
    """Of the graph's file and its weights, hex; see `graph_hash`."""
    folder: Path | None
    manifest: Manifest | None
    progress: Progress


@dataclass(frozen=True)
class _Backend:
    usable: Callable[[_Request], bool]
    """Whether `auto` may try it; False if its packages or its hardware are missing."""
    open: Callable[[_Request], OnnxSession | OpenVinoSession | TensorRtSession]


def open_model(path: str | Path, device: Device = "auto", progress: Progress = silent) -> tuple[Manifest, Session]:
    """Load an export folder or a .onnx file.

    `auto` uses the fastest available backend that can run the model; the session's `device` names it. If one backend
    can run a folder in several ways (INT8 or the next graph of the folder, float32 or bfloat16), they are measured once
    on this machine, which is reported to `progress`. On TensorRT the folder's engine is built first if there is none
    for this GPU. Raises InputError (no such model), RecordError (bad manifest), IntegrityError (corrupt, or not what
    the manifest describes), MissingDependencyError or EngineError (the device is not available), GateError (no engine
    passes the parity check).
    """
    path, device = Path(path), choice(device, get_args(Device), "device")
    if not is_text(str(path)):
        raise InputError(
            f"{printable(path)}: got a name that is not valid UTF-8, which inference libraries cannot open, expected "
            "UTF-8; rename the folder or file"
        )
    if path.is_dir():
        manifest, graph = load_folder(path)
        digest = graph_hash(manifest.files.get, manifest.model)
        session = _open(_Request(graph, digest, path, manifest, progress), device)
        session.check(manifest)
        return manifest, session
    if not path.exists():
        raise InputError(
            f"{path}: no such model, expected an export folder or a .onnx file; check the path or run aselect-export"
        )
    if path.suffix != ".onnx" or not path.is_file():
        raise InputError(f"{path}: got a {path.suffix or 'suffixless'} file, expected an export folder or a .onnx file")
    return _from_file(path, device, progress)


def usable_devices(path: Path) -> list[Device]:
    """The devices of this machine that can run a model, usually the fastest first; raises as `open_model` does."""
    if path.is_dir():
        manifest, graph = load_folder(path)
        request = _Request(graph, "", path, manifest, silent)
    else:
        request = _Request(path, "", None, None, silent)
    return [device for device, backend in _BACKENDS.items() if backend.usable(request)]


def _from_file(path: Path, device: Device, progress: Progress) -> tuple[Manifest, Session]:
    def hash_of(name: str) -> str | None:
        part = path.with_name(name)
        return sha256(part) if part.is_file() else None

    session = _open(_Request(path, graph_hash(hash_of, path.name), None, None, progress), device)
    text = session.metadata().get(METADATA_KEY) if isinstance(session, (OnnxSession, OpenVinoSession)) else None
    if text is None:
        raise IntegrityError(
            f"{path}: got a model without {METADATA_KEY!r} in its metadata, expected one that aselect-export wrote; "
            "give the export folder instead"
        )
    manifest = Manifest.parse(text, str(path))
    session.check(manifest)
    return manifest, session


def _open(model: _Request, device: Device) -> OnnxSession | OpenVinoSession | TensorRtSession:
    """The model on `device`, or for `auto` on the first backend that can load it, in its fastest configuration."""
    if device != "auto":
        return _BACKENDS[device].open(model)
    # A single file has no verification frames to measure and compare with.
    groups = _FAMILIES if model.folder is not None else tuple((device,) for device in _BACKENDS)
    families = [
        usable for group in groups if (usable := [device for device in group if _BACKENDS[device].usable(model)])
    ]
    for devices in families[:-1]:
        # The next backend may load what this one cannot; if not, its error is the more useful one.
        try:
            return _fastest(model, devices)
        except (EngineError, GateError, IntegrityError, MissingDependencyError) as error:
            log.warning("%s; trying the next backend", error)
    return _fastest(model, families[-1])


def _fastest(model: _Request, devices: Sequence[Device]) -> OnnxSession | OpenVinoSession | TensorRtSession:
    """The model in the fastest combination of graph and device, among these devices of one family."""
    graphs = [model]
    if model.folder is not None and model.manifest is not None and "tensorrt" not in devices:
        graphs = [*_comparison_graph(model, model.folder, model.manifest), model]
    ways = [(device, graph) for graph in graphs for device in devices]
    device, graph = ways[0]
    if len(ways) > 1 and model.folder is not None and model.manifest is not None:
        known = [_way(*each, model.manifest) for each in ways]
        device, graph = ways[known.index(choose(known, model.folder, model.manifest, _versions(), model.progress))]
    return _BACKENDS[device].open(graph)


def _way(device: Device, model: _Request, manifest: Manifest) -> Way:
    # OpenVINO rewrites quantised graphs, and was wrong for some.
    gated = device == "openvino-bf16" or (device == "openvino" and manifest.is_eight_bit(model.graph.name))
    return Way(device, model.graph, model.digest, partial(_BACKENDS[device].open, model), gated)


def _versions() -> str:
    """The versions of this package and of the libraries that may run a model, read without importing them."""
    found = []
    for name in ("aselect-runtime", "onnxruntime", "onnxruntime-gpu", "openvino"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return " ".join(found)


def _comparison_graph(model: _Request, folder: Path, manifest: Manifest) -> list[_Request]:
    """The next graph of the folder, which an INT8 or FP8 graph must beat in speed; [] for others or without one.

    Raises IntegrityError if its file is not the one that the manifest lists.
    """
    rungs = [rung for rung in manifest.rungs if rung in manifest.files]
    if not manifest.is_eight_bit(manifest.model) or not rungs:
        return []
    check_files(folder, {name: value for name, value in manifest.files.items() if name.startswith(rungs[0])})
    return [replace(model, graph=inside(folder, rungs[0]), digest=graph_hash(manifest.files.get, rungs[0]))]


def _tensorrt(model: _Request) -> TensorRtSession:
    from aselect_runtime.engines import open_engine

    if model.folder is None or model.manifest is None:
        raise InputError(
            f"{model.graph}: got the device tensorrt and a single .onnx file, expected an export folder, which stores "
            "the engines; give the folder, or use the device cuda",
            parameter="device",
        )
    return open_engine(model.folder, model.manifest, model.progress)


def _runs_tensorrt(model: _Request) -> bool:
    if model.folder is None or find_gpu() is None:
        return False
    from aselect_runtime.engines import runnable

    return runnable() is not None


def _cuda(model: _Request) -> OnnxSession:
    there = available()
    if "cuda" not in there:
        raise MissingDependencyError(
            f"got the device cuda, expected an available one ({', '.join(there)}); pip install onnxruntime-gpu instead "
            "of onnxruntime, or use the device auto",
            parameter="device",
        )
    session = OnnxSession(model.graph, "cuda")
    if session.device != "cuda":  # ONNX Runtime silently continues without a provider that does not load
        session.close()
        raise EngineError(
            "got an onnxruntime-gpu that cannot load its CUDA libraries, expected the versions of CUDA and cuDNN that "
            "it was built for; install those, or use the device auto",
            parameter="device",
        )
    return session


def _openvino_bf16(model: _Request) -> OpenVinoSession:
    own = processor()
    if own.bf16 is None:
        raise EngineError(
            f"got the device openvino-bf16 on {own.name}, expected a processor with AVX-512 BF16 or AMX: elsewhere "
            "bfloat16 is emulated, many times slower; use the device openvino",
            parameter="device",
        )
    return OpenVinoSession(model.graph, bf16=True, digest=model.digest)


def _can_hold_bf16(model: _Request) -> bool:
    """Whether the processor has bfloat16 instructions and the folder has frames to check the outputs with."""
    if not openvino_session.available() or model.manifest is None or VERIFY not in model.manifest.files:
        return False
    return processor().bf16 is not None


_BACKENDS: dict[Device, _Backend] = {
    "tensorrt": _Backend(_runs_tensorrt, _tensorrt),
    "cuda": _Backend(lambda _: has_cuda() and "cuda" in available(), _cuda),
    "openvino": _Backend(
        lambda _: openvino_session.available(), lambda model: OpenVinoSession(model.graph, digest=model.digest)
    ),
    "openvino-bf16": _Backend(_can_hold_bf16, _openvino_bf16),
    "cpu": _Backend(lambda _: True, lambda model: OnnxSession(model.graph, "cpu")),
}
_FAMILIES: tuple[tuple[Device, ...], ...] = (("tensorrt",), ("cuda",), ("cpu", "openvino", "openvino-bf16"))
"""Devices of the same hardware, the fastest hardware first; in a family the most exact first."""
