"""Opening models: folders, single files, and every fault of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from aselect_runtime import open_model
from aselect_runtime.errors import (
    AselectError,
    EngineError,
    InputError,
    IntegrityError,
    MissingDependencyError,
)
from aselect_runtime.sessions.onnx import OnnxSession


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("lone", [False, True])
def test_folder_and_lone_file_run_alike(seg_model: Path, lone: bool) -> None:
    manifest, session = open_model(seg_model / "model.onnx" if lone else seg_model, "cpu")
    frames = np.zeros(manifest.input.shape, np.uint8)
    frames[:, :, 16:] = 255
    outputs = session.infer(frames)
    session.close()
    assert session.device == "cpu"
    assert outputs["class_map"].dtype == np.uint8
    assert outputs["class_map"].shape == frames.shape[:3]
    assert set(outputs["class_map"][0, :, :16].ravel()) == {0}
    assert set(outputs["class_map"][0, :, 16:].ravel()) == {2}


def test_classification_scores(cls_model: Path) -> None:
    manifest, session = open_model(cls_model, "cpu")
    scores = session.infer(np.full(manifest.input.shape, 255, np.uint8))["scores"]
    session.close()
    assert scores.shape == (1, 3)
    assert scores[0].argmax() == 2


def test_missing_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model"):
        open_model(tmp_path / "nothing")
    with pytest.raises(
        InputError, match=r"got a folder without manifest\.json, expected an export folder.* check the path"
    ):
        open_model(tmp_path)
    (tmp_path / "model.pt").touch()
    with pytest.raises(InputError, match=r"got a \.pt file"):
        open_model(tmp_path / "model.pt")


def test_changed_or_truncated_model_in_a_folder(write_model: Callable[..., Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model") / "model.onnx"
    model.write_bytes(model.read_bytes()[:-10])
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_model(model.parent)
    model.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        open_model(model.parent)


@pytest.mark.parametrize("keep", [0, 200])
def test_empty_or_truncated_lone_model(seg_model: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes((seg_model / "model.onnx").read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="ONNX Runtime cannot load it"):
        open_model(path)


def test_lone_model_without_manifest(seg_model: Path, tmp_path: Path) -> None:
    model = onnx.load(str(seg_model / "model.onnx"))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(IntegrityError, match="aselect_manifest"):
        open_model(tmp_path / "foreign.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest["input"].update(shape=[1, 48, 32, 3]), "expected"),
        (lambda manifest: manifest["outputs"][0].update(name="labels"), "class_map"),
        (lambda manifest: manifest["outputs"][1].update(name="labels"), "labels"),
        (lambda manifest: manifest["outputs"][1].update(dtype="uint8"), "confidence"),
        (lambda manifest: manifest["outputs"][1].update(shape=[1, 6, 8]), "confidence"),
        (lambda manifest: manifest["outputs"].pop(0), "class_map"),
        (lambda manifest: manifest["outputs"][0].update(dtype="float32"), "class_map"),
        (lambda manifest: manifest["outputs"][0].update(shape=[1, 12, 16]), "class_map"),
        (lambda manifest: manifest.update(task="cls"), "scores"),
        (lambda manifest: manifest.update(files={}), "no hash"),
        (lambda manifest: manifest.update(model="../model.onnx"), "inside the folder"),
        (lambda manifest: manifest.update(schema="manifest/9.0"), "manifest/9.0"),
    ],
)
def test_manifest_that_does_not_fit(
    write_model: Callable[..., Path], tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    folder = write_model(tmp_path / "model")
    _edit(folder, change)
    with pytest.raises(AselectError, match=message):
        open_model(folder)


def test_devices_that_are_not_here(seg_model: Path) -> None:
    with pytest.raises(EngineError, match="no NVIDIA GPU"):
        open_model(seg_model, "tensorrt")
    with pytest.raises(MissingDependencyError, match="cuda"):
        open_model(seg_model, "cuda")


def test_a_cuda_that_does_not_load_is_reported(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime goes on with the CPU where CUDA's libraries are missing."""
    monkeypatch.setattr("aselect_runtime.backends.available", lambda: ["cpu", "cuda"])
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EngineError, match="cannot load its CUDA"),
    ):
        open_model(seg_model, "cuda")


def test_a_model_in_memory_gives_the_outputs_that_are_named(seg_model: Path) -> None:
    session = OnnxSession((seg_model / "model.onnx").read_bytes(), "cpu")
    frames = np.zeros((1, 24, 32, 3), np.uint8)
    assert set(session.infer(frames)) == {"class_map", "confidence"}
    assert set(session.infer(frames, ["confidence"])) == {"confidence"}
    with pytest.raises(EngineError, match="labels"):
        session.infer(frames, ["labels"])


def test_a_broken_model_in_memory_is_named_as_such() -> None:
    with pytest.raises(IntegrityError, match="model in memory: ONNX Runtime cannot load it"):
        OnnxSession(b"nonsense", "cpu")


def test_a_device_that_is_none_is_refused(seg_model: Path) -> None:
    with pytest.raises(InputError, match="got device 'gpu', expected one of auto, cpu"):
        open_model(seg_model, "gpu")  # type: ignore[arg-type]
