"""From a path to a running model: an export folder, or a lone .onnx file that explains itself."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from aselect_edge.errors import EngineError, InputError, IntegrityError, MissingDependencyError
from aselect_edge.records import Manifest
from aselect_runtime import openvino_session
from aselect_runtime.folder import load_folder
from aselect_runtime.onnx_session import METADATA_KEY, OnnxSession, available
from aselect_runtime.openvino_session import OpenVinoSession
from aselect_runtime.session import Session

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]


def open_model(path: Path, device: Device = "auto") -> tuple[Manifest, Session]:
    """Load an export folder or a .onnx file.

    Raises InputError (no such model), RecordError (bad manifest), IntegrityError (corrupt, or not what the manifest
    describes), MissingDependencyError or EngineError (the device cannot be had).
    """
    if path.is_dir():
        return _from_folder(path, device)
    if not path.exists():
        raise InputError(f"{path}: no such model, expected an export folder or a .onnx file; run aselect-export")
    if path.suffix != ".onnx":
        raise InputError(f"{path}: got a {path.suffix or 'suffixless'} file, expected an export folder or a .onnx file")
    return _from_file(path, device)


def _from_folder(folder: Path, device: Device) -> tuple[Manifest, Session]:
    manifest, path = load_folder(folder)
    session = _session(path, device, manifest)
    session.check(manifest)
    return manifest, session


def _from_file(path: Path, device: Device) -> tuple[Manifest, Session]:
    session = _session(path, device, None)
    text = session.metadata().get(METADATA_KEY)
    if text is None:
        raise IntegrityError(
            f"{path}: got a model without {METADATA_KEY!r} in its metadata, expected one that aselect-export wrote; "
            "give the export folder instead"
        )
    manifest = Manifest.parse(text, str(path))
    session.check(manifest)
    return manifest, session


def _session(path: Path, device: Device, manifest: Manifest | None) -> OnnxSession | OpenVinoSession:
    """The model on `device`, or for `auto` on the fastest one that takes it."""
    if device == "auto":
        return _fastest(path)
    return OpenVinoSession(path) if device == "openvino" else OnnxSession(path, _resolve(device, manifest))


def _fastest(path: Path) -> OnnxSession | OpenVinoSession:
    if openvino_session.available():
        # An ONNX Runtime that can use a GPU beats it; a device may also have no ONNX Runtime at all.
        if find_spec("onnxruntime") and "cuda" in available():
            return OnnxSession(path, "cuda")
        # What it cannot load, ONNX Runtime may, or else says better why not.
        with suppress(IntegrityError):
            return OpenVinoSession(path)
    return OnnxSession(path, "cuda" if "cuda" in available() else "cpu")


def _resolve(device: Device, manifest: Manifest | None) -> str:
    """The ONNX Runtime device that stands for `device`; raises if there is none."""
    there = available()
    if device in there:
        return device
    if device == "tensorrt":
        engines = len(manifest.engines) if manifest else 0
        raise EngineError(
            f"got --device tensorrt and {engines} engine(s) in the model, expected one of {', '.join(there)}: this "
            "version builds engines but runs ONNX only; use --device auto"
        )
    raise MissingDependencyError(
        f"got --device {device}, expected one that is here ({', '.join(there)}); pip install onnxruntime-gpu in place "
        "of onnxruntime, or use --device auto"
    )
