"""Evaluation end to end: bundles, folders and lone graphs on labelled images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_edge.errors import InputError
from aselect_edge.frames import resize
from aselect_edge.records import Resize
from aselect_edge.scenes import CLASSES, Street
from aselect_export import cli, evaluate
from aselect_export.exporting import ExportResult
from aselect_runtime import open_model
from tests.bundles import command


def test_evaluation_is_perfect_on_the_models_own_answers(seg_export: ExportResult, labelled: Path) -> None:
    found = evaluate(seg_export.folder / "model.fp32.onnx", labelled)
    assert found.score == 1.0
    assert (found.metric, found.images) == ("miou", 2)
    present = [value for value in found.per_class.values() if value is not None]
    assert len(present) >= 3
    assert set(present) == {1.0}


def test_bundle_and_folder_score_alike(seg_export: ExportResult, seg_bundle: Path, labelled: Path) -> None:
    assert evaluate(seg_bundle, labelled).score > 0.99
    assert evaluate(seg_export.folder, labelled).score > 0.97


def test_a_classifier_is_right_about_its_own_answers_and_wrong_about_others(
    cls_export: ExportResult, tmp_path: Path
) -> None:
    _, session = open_model(cls_export.folder, "cpu")
    frames = np.stack([Street(seed=seed, height=32, width=40).frame(0)[0] for seed in range(3)])
    inputs = [resize(frame, (8, 40), Resize())[None].repeat(2, axis=0) for frame in frames]
    answers = [int(session.infer(pair)["scores"][0].argmax()) for pair in inputs]
    for index, (frame, answer) in enumerate(zip(frames, answers, strict=True)):
        # One wrong label; three images do not fill two batches of two.
        label = CLASSES[(answer + (index == 2)) % len(CLASSES)]
        (tmp_path / "test" / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "test" / label / f"{index}.png"), frame)
    found = evaluate(cls_export.folder, tmp_path)
    assert (found.metric, found.images) == ("top1", 3)
    assert found.score == pytest.approx(2 / 3)


def test_evaluation_refuses_other_classes(
    seg_export: ExportResult, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "data"
    other.mkdir()
    (other / "test").symlink_to(labelled / "test")
    (other / "classes.json").write_text((labelled / "classes.json").read_text().replace("Sky", "Sea"))
    with pytest.raises(InputError, match=r"Sea.*expected the model's: Sky"):
        evaluate(seg_export.folder, other)
    assert command(cli.evaluate, monkeypatch, str(seg_export.folder), "--data", str(other)) == 1
