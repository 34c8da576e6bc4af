"""The main job on the bundle that ships: export, then run on a synthetic street, as a user types it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_edge.backbones import DiT, load_backbone
from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_runtime.records import Manifest, Report
from tests import forked

EXPORT = "from aselect_export.commands.export import export; export()"
EVALUATE = "from aselect_export.commands.evaluate import evaluate; evaluate()"
RUN = "from aselect_runtime.commands.run import run; run()"

DATA = Path(os.environ.get("ASELECT_DATA", "-"))
camvid = pytest.mark.skipif(not (DATA / "camvid").is_dir(), reason="ASELECT_DATA has no camvid")
cub40 = pytest.mark.skipif(not (DATA / "cub40").is_dir(), reason="ASELECT_DATA has no cub40")


def command(code: str, *arguments: str | Path) -> str:
    result = forked.run("-c", code, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("main-job") / "seg-fp16"
    command(EXPORT, "--task", "seg", "--precision", "fp16", "--out", folder)
    return folder


def test_every_graph_passed_its_check(exported: Path) -> None:
    report = Report.load(exported / "report.json")
    assert {parity.graph for parity in report.parity} == {"fp16", "mixed", "fp32"}
    assert all(parity.passed for parity in report.parity)
    manifest = Manifest.load(exported / "manifest.json")
    assert (exported / manifest.model).stat().st_size < (exported / "model.fp32.onnx").stat().st_size


def test_a_street_comes_out_as_video_lines_and_image(exported: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("street.mp4", "street.jsonl", "street.png")]
    options = [part for output in outputs for part in ("--output", output)]
    summary = json.loads(command(RUN, exported, "synthetic://street", "--max-frames", "8", *options, "--json"))
    assert summary["frames"] == 8
    lines = [json.loads(line) for line in outputs[1].read_text().splitlines()]
    assert len(lines) == 8
    # The street is drawn so that road, building and sky fill most of it: a model that works must see them.
    assert all(sum(line["areas"][name] for name in ("Road", "Building", "Sky")) > 0.4 for line in lines)
    image = cv2.imread(str(outputs[2]))
    assert image is not None
    assert image.std() > 20


@pytest.mark.parametrize("task", SHIPPED)
def test_a_shipped_bundle_is_a_cut_of_a_dit_that_ships(task: str) -> None:
    bundle = load_bundle(SHIPPED[task])
    assert bundle.record.task == task
    backbone = load_backbone("shipped").model
    assert isinstance(backbone, DiT)
    assert bundle.record.backbone.config == backbone.config.to_json()
    assert bundle.record.backbone.file is not None
    assert max(tap.block for tap in bundle.record.taps) < len(backbone.blocks) - 1
    assert np.isclose(bundle.record.noise.alpha**2 + bundle.record.noise.sigma**2, 1)


@camvid
def test_the_shipped_bundle_is_useful_on_camvid(exported: Path) -> None:
    result = json.loads(command(EVALUATE, exported, "--data", DATA / "camvid", "--split", "test", "--json"))
    assert result["images"] == 233
    assert result["score"] >= 0.40


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("main-job") / "cls-fp16"
    command(EXPORT, "--task", "cls", "--precision", "fp16", "--out", folder)
    return folder


def test_the_shipped_classifier_names_what_it_sees(classifier: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    command(RUN, classifier, "synthetic://street", "--max-frames", "2", "--output", lines)
    tops = [json.loads(line)["top"] for line in lines.read_text().splitlines()]
    names = {info.name for info in Manifest.load(classifier / "manifest.json").classes}
    assert len(names) == 40
    assert all(set(top) <= names and all(0 < score <= 1 for score in top.values()) for top in tops)


@cub40
def test_the_shipped_classifier_is_better_than_guessing(classifier: Path) -> None:
    result = json.loads(command(EVALUATE, classifier, "--data", DATA / "cub40", "--split", "val", "--json"))
    assert result["images"] == 200
    assert result["score"] >= 0.38  # 1 / 40 is guessing
