"""An export folder that engines are built into."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx

from aselect_runtime.files import sha256
from aselect_runtime.records import Engine, Manifest, Report

ENGINE = "engines/trt-10.14.1.48-sm87.engine"
"""What the stand-in GPU's TensorRT builds."""


def add_rungs(folder: Path) -> Path:
    """The folder with two fallback rungs, verification frames and a report."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 24, 32, 3), np.uint8)
    np.savez_compressed(folder / "verify.npz", frames=frames, class_map=np.zeros((4, 24, 32), np.uint8))
    Report(notes=("exported",)).save(folder / "report.json")
    names = ("model.mixed.onnx", "model.fp32.onnx")
    for name in names:
        shutil.copy(folder / "model.onnx", folder / name)
        relabel(folder / name, name)
    manifest = Manifest.load(folder / "manifest.json")
    files = {name: sha256(folder / name) for name in ("model.onnx", *names, "verify.npz", "report.json")}
    manifest.model_copy(update={"files": files, "rungs": names}).save(folder / "manifest.json")
    return folder


def relabel(graph: Path, text: str) -> None:
    """Another file that computes the same."""
    model = onnx.load(str(graph))
    model.doc_string = text
    onnx.save(model, str(graph))


def listed(folder: Path) -> tuple[Engine, ...]:
    """The engines of its manifest."""
    return Manifest.load(folder / "manifest.json").engines
