"""The accuracy benchmark: its CNN, what its rows are asked for, and what it says of their figures."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aselect_edge.bundle import load_bundle
from aselect_edge.commands.train import train as train_entry
from aselect_edge.training.goal import open_goal
from aselect_edge.training.recipe import RECIPES
from aselect_export.evaluation import evaluate
from aselect_runtime.records import Noise, Selection, Tap, Task
from benchmarks.accuracy import claim, train_bundle
from benchmarks.accuracy_cnn import CLOSE, CnnLearner, save_graph, search_width, train
from benchmarks.accuracy_report import gather, table
from benchmarks.accuracy_rows import ROWS, Job, selection_of, train_command
from benchmarks.cnn import build_cnn
from tests.bundles import command, write_bundle

JOB = Job("seg", "shipped", "", "", "", "24x32", "conv", 80, 40, asdict(RECIPES["seg"]))
SELECTION = Selection(
    backbone="shipped",
    noise=Noise(alpha=0.99, sigma=0.1, model_timestep=50),
    tap=Tap(block=3, component="query"),
    strategy="hfr",
)


@pytest.mark.parametrize(("task", "shape"), [("seg", (2, 5, 24, 32)), ("cls", (2, 5))])
def test_the_cnn_answers_at_any_width_and_learns_everywhere(task: Task, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    sizes = []
    for width in (0.1, 0.37):
        model = build_cnn(task, 5, width)
        logits = model(255 * torch.rand(2, 3, 48, 64))
        assert logits.shape == shape
        logits.square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert sizes[0] < sizes[1]


@given(dit=st.floats(2, 60), power=st.floats(0.8, 2), unit=st.floats(4, 12))
def test_the_width_of_the_same_latency_is_found(dit: float, power: float, unit: float) -> None:
    width, (theirs, own) = search_width(lambda width: (dit, 1 + unit * width**power))
    assert theirs == dit
    assert own == 1 + unit * width**power
    assert abs(own / dit - 1) <= CLOSE or width > 5.9 or width < 0.06


def test_the_cnn_is_measured_as_it_was_validated(street_data: Path, tmp_path: Path) -> None:
    record = load_bundle(write_bundle(tmp_path / "outline")).record
    recipe = replace(RECIPES["seg"], samples=12, batch=4, warmup=1, validations=3, ema=0.5)
    torch.manual_seed(0)
    model = build_cnn("seg", len(record.classes), 0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    val = train(CnnLearner(model, open_goal("seg", street_data, recipe), record, recipe), tmp_path, width=0.1)
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    save_graph(model, record, tmp_path / "model.onnx")
    assert evaluate(tmp_path / "model.onnx", street_data, "val").score == pytest.approx(val, abs=1e-3)


def test_rows_of_a_kind_are_asked_for_the_same(tmp_path: Path) -> None:
    SELECTION.save(tmp_path / "selection.json")

    def words(name: str) -> list[str]:
        command = train_command(JOB, ROWS[name], 1, tmp_path / "selection.json", tmp_path, tmp_path / "out", 1)
        return command[3:]

    assert set(words("frozen-random")) - set(words("frozen")) == {"--random-backbone"}
    assert set(words("finetuned")) - set(words("frozen")) == {"--finetune", "80"}
    assert set(words("finetuned-random")) - set(words("finetuned")) == {"--random-backbone"}
    assert words("frozen")[words("frozen").index("--taps") + 1] == "0.hidden,3.query"


@pytest.mark.parametrize("name", ["frozen", "finetuned"])
def test_a_row_is_trained_by_the_command_that_it_asks_for(
    name: str, street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(words: list[str]) -> str:
        assert command(train_entry, monkeypatch, *words[3:]) == 0
        return ""

    monkeypatch.setattr("benchmarks.accuracy.call", call)
    SELECTION.save(tmp_path / "selection.json")
    job = replace(JOB, taps="1.mlp", imgsz="32x48", samples=4, frozen_samples=4)
    bundle, found = train_bundle(job, ROWS[name], tmp_path / "selection.json", 0, street_data, tmp_path / "row", 1)
    assert load_bundle(bundle).record.finetuned is (name == "finetuned")
    assert 0 <= found["val"] <= 1
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".features"] == []


def test_the_exhaustive_pick_replaces_the_deepest_tap() -> None:
    given = replace(JOB, taps="0.hidden,2.mlp")
    assert given.taps_at(SELECTION, "selected") == given.taps_at(SELECTION, "fixed") == "0.hidden,2.mlp"
    assert given.taps_at(SELECTION, "exhaustive") == "0.hidden,3.query"
    shallow = SELECTION.model_copy(update={"tap": Tap(block=0, component="hidden")})
    assert JOB.taps_at(shallow, "exhaustive") == "0.hidden"
    assert replace(JOB, task="cls").taps_at(SELECTION, "selected") == "3.query"


def test_the_fixed_level_is_a_tenth_of_the_way(tmp_path: Path) -> None:
    SELECTION.save(tmp_path / "given.json")
    job = replace(JOB, selection=str(tmp_path / "given.json"))
    fixed = Selection.load(selection_of(job, "fixed", 0, tmp_path, tmp_path))
    assert fixed.noise.model_timestep == 100
    assert fixed.tap == SELECTION.tap
    assert Selection.load(selection_of(job, "selected", 0, tmp_path, tmp_path)).noise == SELECTION.noise


def test_the_recorded_exhaustive_pick_of_each_seed_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(JOB, weights="0" * 64)
    picks = {"camvid": {"weights": job.weights, "rows": {"exhaustive": {"picks": ["1.mlp at 50", "2.value at 0"]}}}}
    (tmp_path / "selection.json").write_text(json.dumps(picks))
    monkeypatch.setattr("benchmarks.accuracy_rows.PICKS", tmp_path / "selection.json")
    found = [Selection.load(selection_of(job, "exhaustive", seed, tmp_path, tmp_path)) for seed in (0, 1)]
    assert [(str(one.tap), one.noise.model_timestep) for one in found] == [("1.mlp", 50), ("2.value", 0)]


def test_rows_of_another_job_are_not_mixed_in(tmp_path: Path) -> None:
    claim(tmp_path / "seg", JOB)
    claim(tmp_path / "seg", JOB)
    with pytest.raises(SystemExit, match="samples 80, expected"):
        claim(tmp_path / "seg", replace(JOB, samples=160))


def write_rows(work: Path, scores: dict[str, list[float]]) -> None:
    claim(work, JOB)
    match = {"width": 1.5, "dit_ms": 30.0, "cnn_ms": 31.0, "threads": 2}
    for kept in ("latency-match", "selection-exhaustive-0", "selection-selected"):  # what lies beside the rows
        (work / f"{kept}.json").write_text(json.dumps(match))
    for name, values in scores.items():
        for seed, value in enumerate(values):
            figures: dict[str, Any] = {"test": value, "val": value + 0.1, "samples": 80, "match": match}
            (work / f"{name}-{seed}.json").write_text(json.dumps(figures))


def test_goals_are_met_where_the_interval_is_above_zero(tmp_path: Path) -> None:
    scores = {
        "frozen": [0.30, 0.31, 0.32],
        "frozen-random": [0.25, 0.26, 0.28],
        "finetuned": [0.50, 0.52, 0.54],
        "finetuned-random": [0.52, 0.50, 0.52],
        "cnn": [0.40],
    }
    write_rows(tmp_path / "seg", scores)
    result = gather(tmp_path / "seg")
    assert [goal["met"] for goal in result["goals"]] == [True, False, None]
    pair = result["pairs"][0]
    assert (pair["row"], pair["against"], pair["seeds"]) == ("frozen", "frozen-random", 3)
    # Differences 5, 5 and 4 points: Student's t of 2 degrees is 4.303, their standard deviation 0.577.
    assert pair["difference"]["mean"] == pytest.approx(0.14 / 3)
    assert pair["difference"]["half"] == pytest.approx(4.3027 * 0.0057735 / 3**0.5, rel=1e-3)
    text = table("seg", result)
    assert "| frozen, pretrained, selected timestep | 31.0 ± 2.5 % | 41.0 ± 2.5 % | 3 | 80 |" in text
    assert "| fine-tuned above the CNN of the same latency | +10.0 points, one seed | not shown |" in text
    assert "--task seg --backbone shipped --imgsz 24x32 --head conv --samples 80 --frozen-samples 40`" in text
    assert "U-Net of width 1.50: 31.0 ms per image, compared with 30.0 ms" in text


def test_what_was_not_run_is_not_claimed(tmp_path: Path) -> None:
    write_rows(tmp_path / "seg", {"frozen": [0.3]})
    result = gather(tmp_path / "seg")
    assert result["pairs"] == []
    assert all(goal["met"] is None for goal in result["goals"])
    assert "CNN is" not in table("seg", result)
