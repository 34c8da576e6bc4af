"""What is deployed in place of the full encoder: compared with it on the task, and refused beyond the allowed drop."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from aselect_calibration.settings import Int8Settings
from aselect_edge.bundle import LoadedBundle, load_bundle
from aselect_edge.commands.distil import distil as distil_command
from aselect_edge.distillation import distil
from aselect_export.commands.export import export as export_command
from aselect_export.exporting import export
from aselect_runtime.errors import GateError, InputError
from aselect_runtime.frames import read_image, resize
from aselect_runtime.records import Report
from aselect_runtime.scenes import Street
from tests.bundles import command
from tests.edge import test_encoders
from tests.export.test_families import bundle_of
from tests.house.test_readme import PAGES, commands

GENEROUS = Int8Settings(images=8, max_drop=1.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 streets without labels."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(12):
        cv2.imwrite(str(folder / f"{seed:02}.png"), Street(seed, 48, 64).frame(40)[0])
    return folder


@pytest.fixture(scope="module", params=["dit", "sd3", "pixart"])
def distilled(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """A family whose autoencoder is one of diffusers' classes, with a stem that hardly learned."""
    folder = tmp_path_factory.mktemp(request.param)
    bundle = bundle_of(request.param, folder)
    distil(bundle, images, folder / "distilled", samples=64, batch=8, width=16, blocks=1)
    return load_bundle(folder / "distilled")


@torch.no_grad()
def classes_of(bundle: LoadedBundle, images: Path) -> Tensor:
    """Of the unfolded torch model, pixel by pixel."""
    record, model = bundle.record, bundle.reference()
    frames = [resize(read_image(path), record.imgsz, record.resize) for path in sorted(images.iterdir())]
    logits = model(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float())
    return torch.nn.functional.interpolate(logits, record.imgsz, mode="bilinear", align_corners=False).argmax(1)


def test_the_stem_is_all_there_is_before_the_blocks(distilled: LoadedBundle, images: Path, tmp_path: Path) -> None:
    result = export(distilled, "fp16", tmp_path / "out", engine="none", data=images, int8=GENEROUS, encoder="distilled")
    by_graph = {parity.graph: parity for parity in result.report.parity}
    assert by_graph["fp32"].max_error <= 1e-4, "the graph is the torch module with its stem"
    nodes = onnx.load(tmp_path / "out/model.fp32.onnx").graph.node
    encoder = [node for node in nodes if node.name.startswith("encoder.")]
    assert {node.name.split(".")[1] for node in encoder} == {"stages", "blocks", "last"}
    assert {node.op_type for node in encoder} <= {"Conv", "Relu", "Add", "Pad"}
    found = result.report.replacement
    assert found is not None
    same = classes_of(distilled, images) == classes_of(distilled.with_encoder("distilled"), images)
    assert found.deployed == pytest.approx(float(same.float().mean()), abs=2e-3)
    assert (found.metric, found.images, found.full, found.max_drop) == ("agreement", 12, 1.0, 1.0)
    kept = distilled.record.distilled
    assert kept is not None
    assert (found.cost, found.full_cost, found.replaced) == (kept.cost, kept.full, kept.replaces)
    report = Report.load(tmp_path / "out/report.json")
    assert report.replacement == found
    assert any(note.startswith(f"a distilled stem replaces {found.replaced}") for note in report.notes)
    card = (tmp_path / "out/card.html").read_text()
    assert "What was replaced" in card
    assert f"{found.cost.macs:,} instead of {found.full_cost.macs:,}" in card


def test_beyond_the_drop_nothing_is_written_and_the_exit_code_is_3(
    distilled: LoadedBundle,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    same = classes_of(distilled, images) == classes_of(distilled.with_encoder("distilled"), images)
    lost = 1 - float(same.float().mean())
    assert lost > 0.02
    out = tmp_path / "out"
    arguments = ["--model", str(distilled.folder), "--precision", "fp32", "--engine", "none", "--data", str(images)]
    arguments += ["--encoder", "distilled", "--out", str(out), "--json"]
    assert command(export_command, monkeypatch, *arguments) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    told = re.match(r"error: the encoder distilled loses ([\d.]+) of agreement .* expected at most 0\.01; .*", error)
    assert told, error
    assert float(told[1]) == pytest.approx(lost, abs=2e-3)
    assert error.endswith("(--max-drop, --encoder)")
    assert not out.exists()
    assert command(export_command, monkeypatch, *arguments, "--max-drop", f"{lost + 0.01:.4f}") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"]["replacement"]["encoder"] == "distilled"


def test_a_stem_is_quantised_like_any_part(distilled: LoadedBundle, images: Path, tmp_path: Path) -> None:
    result = export(distilled, "int8", tmp_path / "out", engine="none", data=images, int8=GENEROUS, encoder="distilled")
    assert result.report.quantisation is not None
    names = {layer.layer for layer in result.report.quantisation.layers if layer.int8}
    assert {"encoder.last", "encoder.stages.0.0.conv", "encoder.blocks.0.layers.0"} <= names


def test_the_full_encoder_is_what_is_deployed_if_none_is_named(
    distilled: LoadedBundle, images: Path, tmp_path: Path
) -> None:
    result = export(distilled, "fp32", tmp_path / "out", engine="none", data=images)
    assert result.report.replacement is None
    assert [note for note in result.report.notes if "use the encoder distilled" in note]


def test_where_there_are_labels_the_tasks_metric_decides(
    distilled: LoadedBundle, street_data: Path, tmp_path: Path
) -> None:
    """An error of the labels costs both encoders alike, so that the drop may even be negative."""
    options = {"engine": "none", "data": street_data, "encoder": "distilled"}
    result = export(distilled, "fp32", tmp_path / "out", int8=GENEROUS, **options)  # type: ignore[arg-type]
    found = result.report.replacement
    assert found is not None
    assert (found.metric, found.images) == ("miou", 3)
    assert 0 < found.full < 1


def test_data_is_asked_for_and_only_known_encoders_are_taken(distilled: LoadedBundle, tmp_path: Path) -> None:
    for bundle, encoder, vae, told in (
        (distilled, "distilled", None, "got the encoder distilled and no data"),
        (distilled, "tiny", None, "and no data"),
    ):
        with pytest.raises(InputError, match=told):
            export(bundle, "fp32", tmp_path / "out", engine="none", encoder=encoder, vae=vae)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_tiny_autoencoder_passes_where_it_answers_alike_and_fails_where_not(images: Path, tmp_path: Path) -> None:
    bundle = bundle_of("dit", tmp_path / "model")
    options = test_encoders.TINY | {"encoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1)}
    test_encoders.random(AutoencoderTiny(**options)).save_pretrained(tmp_path / "tiny")
    vae = str(tmp_path / "tiny")
    with pytest.raises(GateError, match=r"the encoder tiny loses .* give another autoencoder, allow a drop of"):
        export(bundle, "fp32", tmp_path / "out", engine="none", data=images, encoder="tiny", vae=vae)
    assert not (tmp_path / "out").exists()
    result = export(
        bundle, "fp32", tmp_path / "out", engine="none", data=images, encoder="tiny", vae=vae, int8=GENEROUS
    )
    found = result.report.replacement
    assert found is not None
    assert found.by == f"AutoencoderTiny ({vae})"
    same = classes_of(bundle, images) == classes_of(bundle.with_encoder("tiny", vae), images)
    assert found.deployed == pytest.approx(float(same.float().mean()), abs=2e-3)
    test_encoders.random(AutoencoderKL(**test_encoders.KL)).save_pretrained(tmp_path / "kl")
    with pytest.raises(InputError, match="got AutoencoderKL, expected AutoencoderTiny"):
        export(bundle, "fp32", tmp_path / "new", engine="none", data=images, encoder="tiny", vae=str(tmp_path / "kl"))


def test_the_commands_of_the_page_work(
    distilled: LoadedBundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "BUNDLE").symlink_to(distilled.folder.parent / "bundle")
    (tmp_path / "IMAGES").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    section = PAGES["training.md"].split("## A cheaper encoder")[1].split("\n## ")[0]
    (first, *learning), (second, *exporting) = commands(section)
    assert (first, second) == ("aselect-distil", "aselect-export")
    brief = ["--samples", "16", "--width", "16", "--blocks", "0"]
    assert command(distil_command, monkeypatch, *learning, *brief) == 0
    assert command(export_command, monkeypatch, *exporting, "--engine", "none", "--max-drop", "1") == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *("BUNDLE", "IMAGES", "DISTILLED", "DISTILLED.training", "EXPORTED"),
    }
