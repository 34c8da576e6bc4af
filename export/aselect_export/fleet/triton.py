"""A model repository for NVIDIA Triton Inference Server.

Fields as in model_config.proto of triton-inference-server/common. The graph's input is camera pixels and its outputs
are classes, so that no ensemble is needed; clients send frames of the model's size.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from aselect_export.fleet.marking import mark
from aselect_export.fleet.rewriting import frames_of, free_batch, hold_against, load
from aselect_runtime.engines.cache import load_plan
from aselect_runtime.errors import AselectError
from aselect_runtime.folder import listed_files, load_folder
from aselect_runtime.frames import Frame
from aselect_runtime.output_folder import FolderKind, atomic_folder
from aselect_runtime.records import Engine, Manifest, TensorSpec
from aselect_runtime.sessions.onnx import OnnxSession

MARKER = "triton.json"
"""A file at the root of a repository that was written here; Triton only reads folders."""
KIND = FolderKind(MARKER, listed_files)

MAX_BATCH = 8
"""Maximum number of single requests that Triton may combine."""

DELAY_US = 2000
"""Maximum time that a request waits for others, in microseconds: well below a camera's frame interval."""

TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def write_triton(folder: Path, out: Path) -> tuple[str, ...]:
    """Write a model repository from an export folder, completely or not at all; returns notes for the user.

    A graph of one frame gets a dynamic batch, checked on the folder's frames, so that Triton batches dynamically; a
    graph of N frames is unchanged, and each request is N frames. A TensorRT engine is added as a second model; engines
    of TensorRT-RTX cannot be loaded by Triton and are left out.
    """
    manifest, graph = load_folder(folder)
    name = f"aselect_{manifest.task}"
    notes: list[str] = []
    with atomic_folder(out, KIND) as repository:
        version = repository / name / "1"
        version.mkdir(parents=True)
        for weights in graph.parent.glob(f"{graph.name}.*"):
            if weights.name in manifest.files:
                shutil.copy(weights, version / weights.name)
        dynamic = _write_graph(folder, graph, manifest, version / "model.onnx", notes)
        _describe(repository / name, manifest, config(name, manifest, dynamic=dynamic))
        for engine in manifest.engines:
            if engine.builder == "tensorrt":
                _write_engine(folder, engine, manifest, repository / f"{name}_tensorrt")
            else:
                notes.append(f"{engine.file} was left out: Triton loads engines of TensorRT, not of TensorRT-RTX")
        mark(repository, MARKER, manifest)
    return tuple(notes)


def config(name: str, manifest: Manifest, *, dynamic: bool, platform: str = "onnxruntime_onnx") -> str:
    """The text of config.pbtxt. With `dynamic`, Triton chooses the batch and dims are those of one frame."""
    lines = [
        f'name: "{name}"',
        f'platform: "{platform}"',
        f"max_batch_size: {MAX_BATCH if dynamic else 0}",
        _tensor("input", manifest.input, dynamic),
        *(
            _tensor("output", output, dynamic, "labels.txt" if output.name == "scores" else None)
            for output in manifest.outputs
        ),
    ]
    if dynamic:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY_US} }}")
    lines.append(
        f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if platform == 'tensorrt_plan' else 'KIND_AUTO'} }} ]"
    )
    lines.append(f'parameters {{ key: "classes" value {{ string_value: {_quoted(_classes(manifest))} }} }}')
    return "\n".join(lines) + "\n"


def _write_graph(folder: Path, graph: Path, manifest: Manifest, target: Path, notes: list[str]) -> bool:
    """Write the graph; returns whether its batch is dynamic."""
    if manifest.input.shape[0] > 1:
        notes.append(f"each request is {manifest.input.shape[0]} frames, the batch that the graph was exported for")
    else:
        model = load(graph)
        free_batch(model)
        onnx.save(model, str(target))
        try:
            hold_against(graph, target, manifest, frames_of(folder, manifest), _classes_in_batches)
            return True
        except AselectError as error:
            notes.append(f"no dynamic batching: {error}")
    shutil.copy(graph, target)
    return False


def _write_engine(folder: Path, engine: Engine, manifest: Manifest, model: Path) -> None:
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.plan").write_bytes(load_plan(folder, engine))
    _describe(model, manifest, config(model.name, manifest, dynamic=False, platform="tensorrt_plan"))


def _describe(model: Path, manifest: Manifest, text: str) -> None:
    (model / "config.pbtxt").write_text(text, encoding="utf-8")
    (model / "labels.txt").write_text("".join(f"{info.name}\n" for info in manifest.classes), encoding="utf-8")


def _classes_in_batches(session: OnnxSession, frames: Frame) -> NDArray[np.int64]:
    """The classes, computed in batches of different sizes, none of which the graph was traced with."""
    parts = [frames[:2], frames[2:5], frames[5:]]
    answers = [session.infer(part) for part in parts if len(part)]
    if "class_map" in answers[0]:
        return np.concatenate([answer["class_map"] for answer in answers]).astype(np.int64)
    best: NDArray[np.int64] = np.concatenate([answer["scores"] for answer in answers]).argmax(1)
    return best


def _tensor(kind: str, spec: TensorSpec, dynamic: bool, labels: str | None = None) -> str:
    dims = ", ".join(map(str, spec.shape[1:] if dynamic else spec.shape))
    label = f' label_filename: "{labels}"' if labels else ""
    return f'{kind} [ {{ name: "{spec.name}" data_type: {TYPES[spec.dtype]} dims: [ {dims} ]{label} }} ]'


def _classes(manifest: Manifest) -> str:
    return json.dumps([info.model_dump(mode="json") for info in manifest.classes])


def _quoted(text: str) -> str:
    """A string of protobuf's text format; JSON escapes all special and non-ASCII characters."""
    return json.dumps(text)
