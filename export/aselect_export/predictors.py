"""Models of every kind as one function from frames to answers, for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aselect_edge.team import Team
from aselect_runtime import open_model
from aselect_runtime.engines.versions import Builder
from aselect_runtime.errors import InputError
from aselect_runtime.folder import BUNDLE, MANIFEST
from aselect_runtime.frames import Frame
from aselect_runtime.options import Device, refuse_unused
from aselect_runtime.progress import Progress
from aselect_runtime.records import ClassInfo, Manifest, Resize, Task
from aselect_runtime.sessions.session import Session

if TYPE_CHECKING:
    from aselect_edge.bundle import LoadedBundle


@dataclass(frozen=True)
class Predictor:
    """A model to evaluate: frames uint8 [N, H, W, 3] to class_map [N, H, W] or scores [N, C]."""

    task: Task
    classes: tuple[ClassInfo, ...]
    resize: Resize
    shape: tuple[int, int, int]
    """Batch, height, width."""
    predict: Callable[[Frame], NDArray[Any]]
    device: str
    """The runtime, for display: `torch cpu`, `cpu` (ONNX Runtime), `openvino`, `tensorrt`."""
    close: Callable[[], None] = lambda: None


def open_alike(path: Path, device: Device, progress: Progress, team: Team) -> Predictor:
    """The model, on the same kind of device in every process: `auto` measures, and only the first process chooses."""
    if team.size == 1 or device != "auto" or (path / BUNDLE).exists():
        return _open(path, device, progress)
    opened = _open(path, device, progress) if team.leads else None
    chosen: Device = team.told(opened and opened.device)
    return opened or _open(path, chosen, progress)


def _open(path: Path, device: Device, progress: Progress) -> Predictor:
    if (path / BUNDLE).exists():
        from aselect_edge.bundle import load_bundle

        return _torch_model(load_bundle(path), device)
    if path.suffix == ".engine":
        if device not in ("auto", "tensorrt"):
            refuse_unused({"device": device}, "an engine", "another model, because an engine runs on tensorrt")
        return _runtime_model(path, *_engine(path))
    if not path.exists() or (path.is_dir() and not (path / MANIFEST).exists()):
        got = f"got a folder without {BUNDLE} and {MANIFEST}" if path.is_dir() else "no such model"
        raise InputError(
            f"{path}: {got}, expected a bundle (the folder that aselect-train writes), an export folder of "
            "aselect-export, a .onnx file of it or an .engine in it; check the path"
        )
    return _runtime_model(path, *open_model(path, device, progress))


def _trusted(answer: NDArray[Any], numbers: NDArray[Any], model: Path) -> NDArray[Any]:
    """The answer, if the `numbers` that it was chosen by are finite: the largest of several NaN is any class."""
    if not np.isfinite(numbers).all():
        raise InputError(
            f"{model}: got NaN or infinity from the model, expected finite numbers; check the weights that it was made "
            "from, or use a higher precision"
        )
    return answer


def _torch_model(bundle: LoadedBundle, device: Device) -> Predictor:
    import torch

    from aselect_export.graph import DeployedGraph

    there = ("auto", "cpu", *(("cuda",) if torch.cuda.is_available() else ()))
    if device not in there:
        raise InputError(
            f"got the device {device} for a bundle, expected {' or '.join(there)}, on which torch runs it here; "
            "change it, or evaluate an export of the bundle",
            parameter="device",
        )
    record, on = bundle.record, there[-1] if device == "auto" else device
    graph = DeployedGraph(bundle.deployed(), record.task).eval().to(on)

    def predict(frames: Frame) -> NDArray[Any]:
        with torch.inference_mode():
            answer, *others = (each.cpu().numpy() for each in graph(torch.from_numpy(frames).to(on)))
        return _trusted(answer, others[-1], bundle.folder)

    return Predictor(record.task, record.classes, record.resize, (1, *record.imgsz), predict, f"torch {on}")


def _engine(path: Path) -> tuple[Manifest, Session]:
    """The given engine of an export folder, independent of the folder's other engines."""
    from aselect_runtime.engines.cache import load_plan
    from aselect_runtime.engines.tensorrt_session import TensorRtSession
    from aselect_runtime.folder import load_folder

    folder = path.absolute().parent.parent
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{path}: got an engine outside an export folder, expected FOLDER/engines/NAME.engine, whose manifest "
            "describes its outputs; give the engine in its folder"
        )
    manifest, _ = load_folder(folder)
    name = path.absolute().relative_to(folder).as_posix()
    engine = next((each for each in manifest.engines if each.file == name), None)
    if engine is None:
        known = ", ".join(each.file for each in manifest.engines) or "none"
        raise InputError(f"{path}: not an engine of its folder's manifest, expected one of: {known}; run aselect-build")
    builder: Builder = "rtx" if engine.builder == "tensorrt-rtx" else "tensorrt"
    session = TensorRtSession(load_plan(folder, engine), builder, str(path))
    try:
        session.check(manifest)
    except BaseException:
        session.close()
        raise
    return manifest, session


def _runtime_model(path: Path, manifest: Manifest, session: Session) -> Predictor:
    batch, height, width, _ = manifest.input.shape
    answer = "class_map" if manifest.task == "seg" else "scores"

    def predict(frames: Frame) -> NDArray[Any]:
        found = session.infer(frames)
        return _trusted(found[answer], found.get("confidence", found[answer]), path)

    shape = (batch, height, width)
    return Predictor(manifest.task, manifest.classes, manifest.resize, shape, predict, session.device, session.close)
