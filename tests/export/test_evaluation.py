"""Evaluation end to end: bundles, folders and single graphs on labelled images."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_edge.bundle import TapModel, load_bundle
from aselect_edge.data import open_segmentation
from aselect_edge.training.answers import evaluate as measure_in_training
from aselect_export import evaluate
from aselect_export.commands.evaluate import evaluate as evaluate_command
from aselect_export.evaluation import has_labels_of
from aselect_export.exporting import ExportResult, export
from aselect_runtime import open_model
from aselect_runtime.errors import EngineError, InputError, WriteError
from aselect_runtime.frames import resize
from aselect_runtime.options import Device
from aselect_runtime.records import ClassInfo, Resize, Task
from aselect_runtime.scenes import CLASSES, Street
from tests.bundles import command, write_bundle


def test_evaluation_is_perfect_on_the_models_own_answers(seg_export: ExportResult, labelled: Path) -> None:
    found = evaluate(seg_export.folder / "model.fp32.onnx", labelled, device="cpu")
    assert found.score == 1.0
    assert found.others == {"pixel_accuracy": 1.0, "mean_accuracy": 1.0}
    assert (found.metric, found.images) == ("miou", 2)
    present = [value for value in found.per_class.values() if value is not None]
    assert len(present) >= 3
    assert set(present) == {1.0}


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_every_way_of_running_a_model_gives_the_same_figures(
    seg_export: ExportResult, seg_bundle: Path, labelled: Path, device: Device
) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    torch = evaluate(seg_bundle, labelled, device="cpu")
    assert torch.score > 0.99
    assert torch.device == "torch cpu"
    for model in (seg_export.folder, seg_export.folder / "model.onnx", seg_export.folder / "model.fp32.onnx"):
        found = evaluate(model, labelled, device=device)
        assert found.device == device
        assert found.score == pytest.approx(torch.score, abs=0.03)
        assert found.others["pixel_accuracy"] == pytest.approx(torch.others["pixel_accuracy"], abs=0.01)
        assert found.per_class.keys() == torch.per_class.keys()


def test_the_command_prints_every_class_and_the_means(
    seg_bundle: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(seg_bundle, labelled)
    assert command(evaluate_command, monkeypatch, str(seg_bundle), "--data", str(labelled)) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "IoU of each class:"
    shown = {line.strip().rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in lines[:-1]}
    expected = {**found.per_class, **found.others, "miou": found.score}
    assert shown == {name: "absent" if value is None else f"{value:.4f}" for name, value in expected.items()}
    assert lines[-1] == "2 images of test, on torch cpu"


def test_a_page_shows_the_figures(seg_export: ExportResult, labelled: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    found = evaluate(seg_export.folder, labelled, device="cpu", report=page)
    text = page.read_text(encoding="utf-8")
    assert f"{found.score:.4f} on 2 images of test" in text
    assert all(name in text for name in found.per_class)
    assert text.count("data:image/png;base64,") == 1
    with pytest.raises(InputError, match=r"ends in \.html"):
        evaluate(seg_export.folder, labelled, report=tmp_path / "report.pdf")


@pytest.mark.parametrize("place", ["file.txt/report.html", "folder.html"])
def test_a_page_that_cannot_be_written_is_said_before_the_images_are_measured(
    seg_bundle: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file.txt").write_text("in the way")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(WriteError, match=place):  # and not InputError, for data that do not exist
        evaluate(seg_bundle, tmp_path / "no data", report=tmp_path / place)


def test_masks_without_any_label_are_no_measure(seg_bundle: Path, labelled: Path, tmp_path: Path) -> None:
    """Otherwise the INT8 gate would compare 0 with 0, whatever the graphs answer."""
    data = shutil.copytree(labelled, tmp_path / "data")
    for mask in (data / "test" / "labels").iterdir():
        cv2.imwrite(str(mask), np.full((96, 128), 255, np.uint8))
    with pytest.raises(InputError, match="got no labelled pixel in 2 images of test"):
        evaluate(seg_bundle, data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("task", ["seg", "cls"])
def test_a_model_that_answers_nan_is_refused(labelled: Path, tmp_path: Path, task: Task, value: float) -> None:
    """The largest of several NaN is the first class, whose share of the data would be the accuracy."""

    def spoil(model: TapModel) -> None:
        model.backbone.get_submodule("blocks.0").get_parameter("mlp_in.weight")[0] = value

    bundle = write_bundle(tmp_path / "bundle", task, spoil)
    data = labelled
    if task == "cls":
        data = tmp_path / "data"
        for name in CLASSES:
            (data / "test" / name).mkdir(parents=True)
            shutil.copy(labelled / "test/images/0.png", data / "test" / name / "0.png")
    with pytest.raises(InputError, match="bundle: got NaN or infinity from the model"):
        evaluate(bundle, data)
    with pytest.raises(InputError, match="bundle: got NaN or infinity from the model"):
        export(load_bundle(bundle), "fp32", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_torch_measures_as_training_does(seg_bundle: Path, labelled: Path) -> None:
    bundle = load_bundle(seg_bundle)
    record = bundle.record
    trained = measure_in_training(bundle.deployed(), open_segmentation(labelled, "test"), record.imgsz, record.resize)
    found = evaluate(seg_bundle, labelled, device="cpu")
    assert (found.score, found.others, tuple(found.per_class.values())) == (
        trained.score,
        trained.others,
        trained.per_class,
    )


def test_a_bundle_runs_where_torch_does(seg_bundle: Path, labelled: Path) -> None:
    with pytest.raises(InputError, match="the device tensorrt for a bundle, expected auto or cpu"):
        evaluate(seg_bundle, labelled, device="tensorrt")


def test_an_engine_is_known_by_its_folder(seg_export: ExportResult, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "lone.engine").write_bytes(b"engine")
    with pytest.raises(InputError, match="engine outside an export folder"):
        evaluate(tmp_path / "lone.engine", labelled)
    with pytest.raises(InputError, match="not an engine of its folder's manifest"):
        evaluate(seg_export.folder / "engines" / "other.engine", labelled)
    with pytest.raises(InputError, match="got device cpu with an engine, where it has no effect"):
        evaluate(tmp_path / "lone.engine", labelled, device="cpu")
    for engine in seg_export.manifest.engines:  # built ahead of time: found, though there is no GPU here to run it
        with pytest.raises(EngineError, match="no NVIDIA driver"):
            evaluate(seg_export.folder / engine.file, labelled)


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
    # Two or three folders, by name, stand for all the classes of the model, in its order.
    (tmp_path / "test").rename(tmp_path / "train")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    found = evaluate(cls_export.folder, tmp_path, device="cpu")
    assert (found.metric, found.images) == ("top1", 3)
    assert found.score == pytest.approx(2 / 3)
    scores = np.stack([session.infer(pair)["scores"][0] for pair in inputs])
    labels = [answers[0], answers[1], (answers[2] + 1) % len(CLASSES)]
    ranks = [(row > row[label]).sum() for row, label in zip(scores, labels, strict=True)]
    assert found.others["top5"] == pytest.approx(np.mean([rank < 5 for rank in ranks]))
    present = [value for value in found.per_class.values() if value is not None]
    assert found.others["mean_accuracy"] == pytest.approx(sum(present) / len(present))


def test_evaluation_refuses_other_classes(
    seg_export: ExportResult, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "data"
    other.mkdir()
    (other / "test").symlink_to(labelled / "test")
    (other / "classes.json").write_text((labelled / "classes.json").read_text().replace("Sky", "Sea"))
    with pytest.raises(InputError, match=r"Sea.*expected the model's: Sky"):
        evaluate(seg_export.folder, other)
    assert command(evaluate_command, monkeypatch, str(seg_export.folder), "--data", str(other)) == 1


def test_labels_of_other_classes_are_no_measure(street_data: Path, tmp_path: Path) -> None:
    """One name in common is not enough: pixels of the other classes could not be scored."""
    classes = open_segmentation(street_data, "val").classes
    assert has_labels_of(street_data, "val", "seg", classes)
    assert not has_labels_of(street_data, "val", "seg", (*classes[1:], classes[0]))
    assert not has_labels_of(street_data, "val", "seg", classes[:2])
    for split in ("train", "val"):
        for name in ("jay", "wren"):
            (tmp_path / split / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / split / name / "0.png"), np.zeros((4, 4, 3), np.uint8))
    birds = tuple(ClassInfo(name=name, colour=(0, 0, 0)) for name in ("wren", "jay", "owl"))
    assert has_labels_of(tmp_path, "val", "cls", birds)
    assert not has_labels_of(tmp_path, "val", "cls", birds[:1])


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("nowhere", "no such model"),
        ("nowhere/model.onnx", "no such model"),
        ("empty", "got a folder without bundle.json and manifest.json"),
    ],
)
def test_a_path_without_a_model_says_what_may_be_evaluated(
    name: str,
    got: str,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    assert command(evaluate_command, monkeypatch, str(tmp_path / name), "--data", str(labelled)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / name}: {got}, expected a bundle")
    for word in ("export folder", ".onnx", ".engine", "check the path"):
        assert word in said
    assert said.count("\n") == 1
