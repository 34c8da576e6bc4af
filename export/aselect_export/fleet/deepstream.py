"""A folder for DeepStream's nvinfer element: a graph in its input format, its configuration and its labels.

nvinfer feeds float32 planes (net-scale-factor x (pixel - offset), NCHW) and, for segmentation, reads per-class scores
[C, H, W] of its first output: the highest one above segmentation-threshold wins. Keys as in the property table of the
Gst-nvinfer documentation and gstnvinfer_property_parser.h of NVIDIA/DeepStream.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from aselect_export.fleet.marking import mark
from aselect_export.fleet.rewriting import (
    class_probabilities,
    frames_of,
    hold_against,
    load,
    planar_input,
)
from aselect_runtime.errors import InputError
from aselect_runtime.folder import listed_files, load_folder
from aselect_runtime.frames import Frame
from aselect_runtime.output_folder import FolderKind, atomic_folder
from aselect_runtime.records import Manifest
from aselect_runtime.sessions.onnx import OnnxSession

MODEL, CONFIG, LABELS = "model.deepstream.onnx", "config_infer.txt", "labels.txt"
MARKER = "deepstream.json"
"""Identifies a folder that was written here, as opposed to one with a user's own configuration."""
KIND = FolderKind(MARKER, listed_files)
PIXELS, PROBABILITIES = "pixels", "probabilities"

_NETWORK_MODE = {"fp32": ("fp32", 0), "int8": ("fp16", 2), "fp16": ("fp16", 2)}
"""Precision -> nvinfer's name of its mode, which is part of its engine's name, and its number.

Without a calibration file nvinfer replaces its INT8 mode by FP16. An INT8 graph has its scales in it.
"""
_NETWORK_TYPE = {"cls": 1, "seg": 2}


def write_deepstream(folder: Path, out: Path) -> tuple[str, ...]:
    """Write graph, configuration and labels of an export folder, all or nothing; returns notes for the user."""
    manifest, graph = load_folder(folder)
    if manifest.precision not in _NETWORK_MODE:
        raise InputError(
            f"{folder}: got the precision {manifest.precision}, expected fp32, fp16 or int8 for nvinfer; "
            "export with another precision",
            parameter="precision",
        )
    labels = label_text(manifest)
    with atomic_folder(out, KIND) as target:
        for weights in graph.parent.glob(f"{graph.name}.*"):
            if weights.name in manifest.files:
                shutil.copy(weights, target / weights.name)
        model = load(graph)
        planar_input(model, PIXELS)
        if manifest.task == "seg":
            class_probabilities(model, PROBABILITIES, len(manifest.classes))
        onnx.save(model, str(target / MODEL))
        hold_against(graph, target / MODEL, manifest, frames_of(folder, manifest), _classes(manifest.input.shape[0]))
        (target / CONFIG).write_text(config(manifest), encoding="utf-8")
        (target / LABELS).write_text(labels, encoding="utf-8")
        mark(target, MARKER, manifest)
    return departures(manifest)


def config(manifest: Manifest) -> str:
    """The text of nvinfer's configuration: a primary element that processes whole frames."""
    batch, height, width, _ = manifest.input.shape
    letterbox = int(manifest.resize.mode == "letterbox")
    mode, number = _NETWORK_MODE[manifest.precision]
    keys: dict[str, object] = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "interval": 0,
        "onnx-file": MODEL,
        "model-engine-file": f"{MODEL}_b{batch}_gpu0_{mode}.engine",
        "labelfile-path": LABELS,
        "batch-size": batch,
        "network-mode": number,
        "strongly-typed": 1,
        "network-type": _NETWORK_TYPE[manifest.task],
        "num-detected-classes": len(manifest.classes),
        "infer-dims": f"3;{height};{width}",
        "network-input-order": 0,
        "model-color-format": 1,
        "net-scale-factor": 1.0,
        "offsets": "0;0;0",
        "maintain-aspect-ratio": letterbox,
        "symmetric-padding": letterbox,
        "scaling-filter": 1,
        "output-blob-names": PROBABILITIES if manifest.task == "seg" else "scores",
    }
    if manifest.task == "seg":
        keys |= {"segmentation-threshold": 0.0, "segmentation-output-order": 0}
    else:
        keys |= {"classifier-threshold": 0.0}
    return "[property]\n" + "".join(f"{key}={value}\n" for key, value in keys.items())


def label_text(manifest: Manifest) -> str:
    """labels.txt: one class per line; for a classifier one line per output, its classes separated by semicolons."""
    names = [info.name for info in manifest.classes]
    if manifest.task == "seg":
        return "".join(f"{name}\n" for name in names)
    if bad := next((name for name in names if ";" in name), None):
        raise InputError(
            f"got the class {bad!r}, expected no semicolon, which separates labels in nvinfer; rename the class"
        )
    return ";".join(names) + "\n"


def departures(manifest: Manifest) -> tuple[str, ...]:
    """Notes on where nvinfer's resizing differs from the one that the model was trained with."""
    notes = []
    if manifest.resize.interpolation == "area":
        notes.append("nvinfer resizes bilinearly, the model was trained with area interpolation: accuracy may differ")
    if manifest.resize.mode == "letterbox":
        notes.append("nvinfer pads with black, the model was trained with grey borders: accuracy may differ")
    return tuple(notes)


def _classes(batch: int) -> Callable[[OnnxSession, Frame], NDArray[np.int64]]:
    def run(session: OnnxSession, frames: Frame) -> NDArray[np.int64]:
        planes = frames.transpose(0, 3, 1, 2).astype(np.float32)
        answers = [session.infer(planes[start : start + batch]) for start in range(0, len(frames), batch)]  # type: ignore[arg-type]
        name = next(iter(answers[0])) if PROBABILITIES not in answers[0] else PROBABILITIES
        best: NDArray[np.int64] = np.concatenate([answer[name] for answer in answers]).argmax(1)
        return best

    return run
