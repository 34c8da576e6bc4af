"""The frozen probe: its regression against the formula, its labels, and what a run records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge.backbones import load_backbone
from aselect_runtime.errors import InputError
from benchmarks import frozen
from benchmarks.frozen import Job, Ridge, control, measure, paired
from benchmarks.frozen_table import table


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 39), damping=st.sampled_from([0.1, 10.0, 1000.0]))
def test_the_regression_from_sums_is_that_of_all_rows_at_once(seed: int, cut: int, damping: float) -> None:
    rng = np.random.default_rng(seed)
    rows, classes = rng.normal(3, [0.1, 1, 50], (40, 3)), rng.integers(0, 4, 40)
    ridge = Ridge(3, 4)
    for part in (slice(0, cut), slice(cut, 40)):
        ridge.add(torch.from_numpy(rows[part]), torch.from_numpy(classes[part]))
    scaled = np.column_stack([(rows - rows.mean(0)) / (rows.std(0, ddof=1) + 1e-6), np.ones(40)])
    formula = np.linalg.inv(scaled.T @ scaled + damping * np.eye(4)) @ scaled.T @ np.eye(4)[classes]
    answers = np.column_stack([rows, np.ones(40)]) @ ridge.weights(damping).numpy()
    np.testing.assert_allclose(answers, scaled @ formula, rtol=1e-6, atol=1e-8)


def test_a_token_has_the_class_at_its_centre_and_a_token_without_class_is_left_out() -> None:
    labels = np.full((1, 32, 48), 7, np.uint8)
    labels[0, 8, 8], labels[0, 8, 24], labels[0, 24, 40] = 2, 255, 3
    tokens = torch.arange(6.0).view(1, 6, 1)
    rows, classes = paired(tokens, labels, classes=11)
    assert classes.tolist() == [2, 7, 7, 7, 3]
    assert rows.flatten().tolist() == [0, 2, 3, 4, 5]


def test_the_mean_of_the_tokens_stands_for_a_classified_image() -> None:
    rows, classes = paired(torch.tensor([[[1.0], [3.0]], [[0.0], [4.0]]]), np.array([5, 0]), classes=6)
    assert rows.tolist() == [[2.0], [2.0]]
    assert classes.tolist() == [5, 0]


def test_a_run_scores_every_tap_and_seed(street_data: Path, tmp_path: Path) -> None:
    for name, source in (("train", "train"), ("test", "val"), ("classes.json", "classes.json")):
        (tmp_path / name).symlink_to(street_data / source)
    job = Job("streets", "seg", (48, 64), 0, ("0.hidden", "1.mlp"))
    found = measure(job, load_backbone("shipped"), tmp_path, seeds=2)
    scores = found["scores"]
    assert set(scores) == {"trained", "random"}
    assert all(0 <= scores["trained"][tap] <= 1 for tap in job.taps)
    assert all(len(scores["random"][tap]) == 2 for tap in job.taps)
    assert scores["random"]["0.hidden"][0] != scores["random"]["0.hidden"][1]


def test_a_control_has_both_runs_and_is_of_one_recipe(
    street_data: Path, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "streets").mkdir()
    for name, source in (("train", "train"), ("test", "val"), ("classes.json", "classes.json")):
        (tmp_path / "streets" / name).symlink_to(street_data / source)
    monkeypatch.setattr(frozen, "JOBS", (Job("streets", "seg", (48, 64), 0, ("1.mlp",)),))
    curve: dict[str, Any] = {"rows": [[32, 9.0, 0.5, 1.5]], "recipe": {"batch": 16}}
    for name in ("taught", "alone"):
        shutil.copytree(backbone_folder, tmp_path / name)
        (tmp_path / name / "curve.json").write_text(json.dumps(curve))
    found = control(tmp_path / "taught", tmp_path / "alone", tmp_path)
    assert (found["images"], found["batch"]) == (32, 16)
    assert found["streets"]["taught"] == found["streets"]["alone"] != {}
    for change in ({"recipe": {"batch": 8}}, {"rows": [[16, 4.0, 0.5, 1.5]]}):
        (tmp_path / "alone" / "curve.json").write_text(json.dumps(curve | change))
        with pytest.raises(InputError, match="alone: got a run of another recipe or length than"):
            control(tmp_path / "taught", tmp_path / "alone", tmp_path)


def test_the_table_shows_the_control_beside_random_weights() -> None:
    job = {"imgsz": [8, 8], "timestep": 0, "mirrored": False}
    scores = {"trained": {"1.mlp": 0.4}, "random": {"1.mlp": [0.1, 0.2, 0.3]}}
    part = {"job": job, "date": "today", "machine": "a machine", "scores": scores}
    compared = {"taught": {"1.mlp": 0.3}, "alone": {"1.mlp": 0.25}}
    part_of_control = {"images": 4800, "batch": 32, "date": "today", "machine": "a machine"}
    text = table({"cub40": part, "camvid": part, "control": part_of_control | {"cub40": compared, "camvid": compared}})
    assert "| CamVid test mIoU over tokens, `1.mlp` | 30.0 | 25.0 | 20.0 |" in text
    assert "4,800 images each, in batches of 32" in text
