"""The generated parts of the model card and of docs/pretraining.md against figures that are computed here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import frozen_table, model_card
from benchmarks.model_images import drawn
from research.tiny import CLIP_EVERY

ROOT = Path(__file__).parents[2]


def values(text: str) -> list[float]:
    return [float(value) for value in re.findall(r" (\d+)(?=[,.](?:\s|$))", text.splitlines()[0])]


def test_the_streets_classes_have_the_mean_of_the_recorded_miou() -> None:
    result = json.loads((ROOT / "benchmarks/results/main_job.json").read_text())
    found = values(model_card.streets(result))
    assert len(found) == 11
    assert found == sorted(found, reverse=True)
    assert sum(found) / 11 == pytest.approx(result["figures"]["CamVid test mIoU, fp16 [%]"], abs=0.5)


def test_the_birds_are_those_of_the_included_bundle() -> None:
    text = model_card.birds()
    assert len(values(text)) == 40
    row = next(row for row in json.loads(model_card.GPU_RUN.read_text())["rows"] if row["row"] == "ship-large")
    bundle = json.loads((ROOT / "weights/aselect_weights/cls/bundle.json").read_text())
    assert bundle["metrics"]["val_top1"] == pytest.approx(row["val"])
    assert (bundle["imgsz"], len(row["per_class"])) == (row["imgsz"], len(bundle["classes"]))
    assert re.search(r"Laysan Albatross 60\b", text)  # the second class, recall 0.6


def test_a_choice_is_scored_where_the_probe_looked() -> None:
    lines = model_card.choices().splitlines()
    best = max(model_card.probed().values())
    assert lines[2] == f"| a labelled probe | 4.mlp at 0 | 5.attn at 20 | {100 * best:.1f} % | 0 |"
    assert any(line.startswith("| `hfr` |") and "not scored" in line for line in lines)
    assert any("| 3.query at 0 | 22.5 % | 12.0 |" in line for line in lines)


def test_the_interval_of_the_difference_is_that_of_the_random_weights() -> None:
    job = {"imgsz": [48, 64], "timestep": 0, "mirrored": False}
    scores: dict[str, dict[str, Any]] = {"trained": {"1.mlp": 0.5}, "random": {"1.mlp": [0.1, 0.2, 0.3]}}
    part = {"job": job, "scores": scores, "date": "2026-01-01", "machine": "2 cores"}
    text = frozen_table.table({"camvid": part})
    # Student's 97.5 % quantile with two degrees of freedom is 4.303; 4.303 * 0.1 / sqrt(3) = 0.248
    assert "| `1.mlp` | 50.0 | 20.0 ± 24.8 | 30.0 ± 24.8 |" in text
    scores["random"]["1.mlp"] = [0.2]
    assert "±" not in frozen_table.table({"camvid": part})


def test_frames_of_the_pretraining_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="pretraining"):
        drawn(tmp_path / "none.mp4", (1, CLIP_EVERY))
