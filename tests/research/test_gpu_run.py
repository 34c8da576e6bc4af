"""The GPU run, rehearsed on the CPU in a minute, and what it refuses."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle import load_bundle
from aselect_runtime.records import Selection
from research.gpu_run import LEAST_SECONDS, main
from research.pack import pack
from tests.research.packed import write_data, write_teacher


@pytest.fixture(scope="module")
def packed(street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    teacher = write_teacher(folder / "teacher.safetensors")
    pack(write_data(folder / "data", street_data), folder / "pack.zip", 12_000_000, teacher=teacher)
    return folder / "pack.zip"


def test_a_short_run_gives_a_backbone_selections_rows_and_results(packed: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    words = ["--pack", str(packed), "--out", str(out), "--work", str(work), "--device", "cpu", "--small"]
    assert main([*words, "--seconds", str(LEAST_SECONDS), "--pretrain-share", "0.2", "--workers", "1"]) == 0
    assert load_backbone(str(work / "backbone")).model.depth == 8
    figures = json.loads((out / "figures.json").read_text())
    assert figures["errors"] == {}
    for row in figures["rows"]:
        assert 0 <= row["val"] <= 1
        assert row["samples"] > 0
    parts = sorted(out.glob("results.zip.*"))
    assert 1 <= len(parts) <= 6, "at most eight files come back, figures and log among them"
    assert all(part.stat().st_size <= 15 * 2**20 for part in parts)
    (tmp_path / "results.zip").write_bytes(b"".join(part.read_bytes() for part in parts))
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        archive.extractall(tmp_path / "results")
    assert load_backbone(str(tmp_path / "results/backbone")).model.depth == 8
    for task in ("seg", "cls"):
        assert Selection.load(tmp_path / f"results/{task}-probe.selection.json").strategy == "probe"
    for folder in (tmp_path / "results/bundles").glob("*"):
        load_bundle(folder)
    assert "done" in (out / "run.log").read_text()
    # The same command again trains nothing that is done.
    known = {path.name: path.stat().st_mtime_ns for path in (work / "rows").glob("*.json")}
    assert main([*words, "--seconds", str(LEAST_SECONDS), "--stages", "none"]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (work / "rows").glob("*.json")} == known


def test_chosen_rows_are_trained_on_the_included_backbone(packed: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    words = ["--pack", str(packed), "--out", str(out), "--work", str(work), "--device", "cpu", "--small", "--included"]
    assert main([*words, "--jobs", "seg-finetuned-1", "--seconds", "240"]) == 0
    figures = json.loads((out / "figures.json").read_text())
    assert [(row["row"], row["seed"]) for row in figures["rows"]] == [("finetuned", 1)], figures["errors"]
    assert load_bundle(work / "rows/seg-finetuned-1/bundle").record.backbone.source == "shipped"
    assert not (work / "backbone").exists()


def test_an_unknown_job_is_refused(packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--pack", str(packed), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert main([*words, "--jobs", "seg-best-0"]) == 1
    assert "got job 'seg-best-0', expected one of seg-teacher-0" in capfd.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_budget_that_is_too_short_is_refused(packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--pack", str(packed), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert main([*words, "--seconds", "5"]) == 1
    assert "got --seconds 5, expected at least" in capfd.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_machine_without_a_gpu_is_reported(packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--pack", str(packed), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]) == 1
    assert "got no GPU that torch finds" in capfd.readouterr().err
    assert not (tmp_path / "work").exists()
