"""What an export writes: every file listed, hashed, described and true."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.bundle import load_bundle
from aselect_export.exporting import ExportResult, export, open_bundle
from aselect_export.graph import DeployedGraph
from aselect_export.verify import verification_frames
from aselect_runtime import open_model
from aselect_runtime.engines.versions import available
from aselect_runtime.errors import InputError
from aselect_runtime.files import check_files, sha256
from aselect_runtime.records import Engine, Manifest, Resize
from aselect_runtime.scenes import CLASSES, Street
from tests.bundles import SIZE


def test_the_folder_is_what_its_manifest_says(seg_export: ExportResult) -> None:
    manifest = Manifest.load(seg_export.folder / "manifest.json")
    assert manifest == seg_export.manifest
    check_files(seg_export.folder, manifest.files)
    check_files(seg_export.folder, {built.file: built.sha256 for built in manifest.engines})
    assert manifest.rungs == ("model.mixed.onnx", "model.fp32.onnx")
    assert manifest.input.shape == (1, *SIZE, 3)
    assert [output.name for output in manifest.outputs] == ["class_map", "confidence"]
    named = {*manifest.files, *(built.file for built in manifest.engines), "manifest.json"}
    on_disk = {
        path.relative_to(seg_export.folder).as_posix() for path in seg_export.folder.rglob("*") if path.is_file()
    }
    assert on_disk == named


def test_every_graph_that_ships_has_its_latency(seg_export: ExportResult) -> None:
    timed = {name.split(",")[0]: taken for name, taken in seg_export.report.latency.items()}
    assert set(timed) == {"model.onnx", *seg_export.manifest.rungs}
    assert all(taken > 0 for taken in timed.values())


def test_the_report_says_what_was_verified_on(
    seg_export: ExportResult, seg_bundle: Path, labelled: Path, tmp_path: Path
) -> None:
    assert any("8 synthetic street scenes" in note for note in seg_export.report.notes)
    result = export(open_bundle("seg", seg_bundle), "fp32", tmp_path / "out", engine="none", data=labelled)
    assert f"verified on 2 images of {labelled}" in result.report.notes
    with np.load(result.folder / "verify.npz") as arrays:
        frames = arrays["frames"]
    images = [cv2.imread(str(path)) for path in sorted((labelled / "test/images").iterdir())]
    expected = [cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA) for image in images if image is not None]
    assert len(frames) == 8
    np.testing.assert_array_equal(np.unique(frames, axis=0), np.unique(np.stack(expected), axis=0))


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (16, 4104)])
def test_synthetic_streets_replace_data_at_any_input_size(size: tuple[int, int]) -> None:
    frames, _ = verification_frames(None, 2, size, Resize())
    assert frames.shape == (2, *size, 3)
    assert (frames[0] != frames[1]).any()


def test_the_backbones_size_counts_its_conditioning_once(seg_export: ExportResult, seg_bundle: Path) -> None:
    config = DiTConfig.from_json(load_bundle(seg_bundle).record.backbone.config)
    stored, conditioning = DiT(config), DiT(config).conditioning[0]
    copies = config.num_layers - 1
    expected = sum(p.numel() for p in stored.parameters()) - copies * sum(p.numel() for p in conditioning.parameters())
    assert seg_export.report.size["backbone_float32_bytes"] == 4 * expected


@pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")
def test_the_engine_was_built_from_the_graph_that_ships(seg_export: ExportResult) -> None:
    (built,) = seg_export.manifest.engines
    assert built.onnx_sha256 == seg_export.manifest.files["model.onnx"]
    assert (built.target, built.builder) == ("sm86", "tensorrt-rtx")


def test_a_single_graph_contains_its_manifest(seg_export: ExportResult) -> None:
    for name in ("model.onnx", *seg_export.manifest.rungs):
        manifest, session = open_model(seg_export.folder / name, "cpu")
        assert manifest.classes == seg_export.manifest.classes
        assert manifest.model == name
        assert manifest.precision == ("fp32" if "fp32" in name else "fp16")
        session.close()


def test_the_runtime_gives_what_torch_gives_on_frames_of_its_own(seg_export: ExportResult, seg_bundle: Path) -> None:
    frames = np.stack([Street(seed=9, height=SIZE[0], width=SIZE[1]).frame(77)[0]])
    with torch.no_grad():
        graph = DeployedGraph(load_bundle(seg_bundle).reference(), "seg")
        class_map, confidence, _ = (output.numpy() for output in graph(torch.from_numpy(frames)))
    assert len(np.unique(class_map)) >= 3, "one class everywhere would agree with anything"
    manifest, session = open_model(seg_export.folder, "cpu")
    got = session.infer(frames)
    assert got["class_map"].dtype == np.uint8
    assert (got["class_map"] == class_map).mean() >= 0.995
    assert np.abs(got["confidence"] - confidence).mean() < 0.01
    assert {output.name: output.shape for output in manifest.outputs} == {k: v.shape for k, v in got.items()}


def test_verification_arrays_load_without_pickle(seg_export: ExportResult) -> None:
    _, session = open_model(seg_export.folder / "model.fp32.onnx", "cpu")
    with np.load(seg_export.folder / "verify.npz", allow_pickle=False) as arrays:
        frames, logits, class_map = arrays["frames"], arrays["logits"], arrays["class_map"]
    assert logits.dtype == np.float32
    assert len(frames) == len(logits) == len(class_map)
    got = np.concatenate([session.infer(frame[None])["class_map"] for frame in frames])
    assert (got == class_map).mean() >= 0.999


def test_classification_with_a_batch_and_another_size(cls_export: ExportResult) -> None:
    assert cls_export.manifest.input.shape == (2, 8, 40, 3)
    assert cls_export.manifest.rungs == ()
    (scores,) = cls_export.manifest.outputs
    assert (scores.name, scores.shape) == ("scores", (2, len(CLASSES)))
    _, session = open_model(cls_export.folder, "cpu")
    got = session.infer(np.zeros((2, 8, 40, 3), np.uint8))["scores"]
    assert got.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_the_card_says_what_the_folder_holds(seg_export: ExportResult) -> None:
    card = (seg_export.folder / "card.html").read_text(encoding="utf-8")
    report, manifest = seg_export.report, seg_export.manifest
    assert "card.html" in manifest.files
    for parity in report.parity:
        assert f"{parity.agreement:.3%}" in card
    for tap in manifest.taps:
        assert str(tap) in card
    assert f"{report.size['deployed_float32_bytes'] / 1e6:.1f} MB, head included, remain" in card
    assert "https://" not in card


def test_an_export_over_an_older_one_keeps_what_it_did_not_write(seg_bundle: Path, tmp_path: Path) -> None:
    bundle, out = open_bundle("seg", seg_bundle), tmp_path / "out"
    first = export(bundle, "fp32", out, engine="none").manifest
    (out / "engines").mkdir()
    for name in ("trt.engine", "of-trtexec.engine"):
        (out / "engines" / name).write_bytes(name.encode())
    built = Engine(
        file="engines/trt.engine",
        sha256=sha256(out / "engines/trt.engine"),
        onnx_sha256=first.files["model.onnx"],
        builder="tensorrt",
        version="10.13.3",
        target="sm87",
    )
    first.model_copy(update={"engines": (built,)}).save(out / "manifest.json")
    (out / "notes.txt").write_text("mine")
    same = export(bundle, "fp32", out, engine="none").manifest
    assert same.files["model.onnx"] == first.files["model.onnx"]
    assert (same.engines, Manifest.load(out / "manifest.json").engines) == ((built,), (built,))
    check_files(out, {built.file: built.sha256})
    other = export(bundle, "fp32", out, engine="none", imgsz=(8, 24)).manifest
    assert other.engines == ()
    assert {path.name for path in (out / "engines").iterdir()} == {"of-trtexec.engine"}
    assert (out / "notes.txt").read_text() == "mine"
    check_files(out, other.files)


@pytest.mark.parametrize("text", ['{"name": "My app", "start_url": "/"}', "{}", "no JSON"])
def test_an_export_over_somebody_elses_manifest_is_refused(seg_bundle: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"got a manifest\.json of another kind"):
        export(open_bundle("seg", seg_bundle), "fp32", tmp_path, engine="none")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"manifest.json": text, "index.html": "mine"}
