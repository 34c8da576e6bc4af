"""select and train as functions: what they write and return, and what they refuse."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aselect_edge import load_backbone, load_bundle, select, train
from aselect_edge.training import Outcome
from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.records import Noise, Selection, Tap

SELECTION = Selection(
    backbone="another",
    noise=Noise(alpha=0.8, sigma=0.6, model_timestep=300),
    tap=Tap(block=1, component="key"),
    strategy="hfr",
)


def test_a_selection_is_returned_and_written_where_asked(
    backbone_folder: Path, street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"strategy": "hfr", "images": 2, "blocks": 1, "timesteps": [0, 300]}
    found = select(backbone_folder, street_data, imgsz="24x32", **options)
    assert not list(tmp_path.iterdir())
    assert {score.noise.model_timestep for score in found.scores} == {0, 300}
    out = tmp_path / "selection.json"
    told: list[str] = []
    again = select(
        load_backbone(str(backbone_folder)),
        str(street_data),
        imgsz=(24, 32),
        out=str(out),
        progress=lambda what, _share: told.append(what),
        **options,
    )
    assert (again.tap, again.scores) == (found.tap, found.scores)
    assert Selection.load(out) == again
    assert out.with_suffix(".png").is_file()
    assert told


def test_what_is_left_out_is_the_commands_default(backbone_folder: Path, street_data: Path) -> None:
    found = select(str(backbone_folder), street_data, tap="1.mlp", timesteps=[300, 10])
    assert (found.strategy, str(found.tap), found.noise.model_timestep) == ("smallest-sigma", "1.mlp", 10)


def test_a_place_that_cannot_be_written_is_refused_before_the_scan(
    backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.json").mkdir()
    told: list[str] = []
    with pytest.raises(WriteError, match=r"out\.json: could not write"):
        select(backbone_folder, street_data, out=tmp_path / "out.json", progress=lambda what, _: told.append(what))
    assert not told


def test_labels_of_the_other_task_are_mentioned(
    backbone_folder: Path, street_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        select(backbone_folder, street_data, task="cls", imgsz="24x32", images=2)
    assert "has labels of the task seg, which are not used" in caplog.text


def test_labels_that_are_there_are_used(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"imgsz": "24x32", "timesteps": [0, 300], "blocks": 1, "images": 2}
    assert select(backbone_folder, street_data, **options).strategy == "probe"
    assert select(backbone_folder, street_data, task="cls", **options).strategy == "smallest-sigma"
    assert select(backbone_folder, street_data, timestep=10, imgsz="24x32", images=2).strategy == "fixed"
    shutil.copytree(street_data / "train/images", tmp_path / "frames")
    assert select(backbone_folder, tmp_path / "frames", **options).strategy == "smallest-sigma"
    assert select(backbone_folder).strategy == "smallest-sigma"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"out": "selection.txt"}, r"ends in \.json"),
        ({"strategy": "guess"}, "guess"),
        ({"device": "abacus"}, "abacus"),
        ({"imgsz": "24"}, "expected HxW"),
        ({"imgsz": (24, -32)}, "expected HxW"),
        ({"imgsz": (24, 32, 3)}, "expected HxW"),
        ({"tap": "1.nose"}, "nose"),
        ({"imgsz": 48}, "expected HxW"),
        ({"task": "pose"}, "expected one of cls, seg"),
        ({"dimensions": 3}, "got dimensions 3, expected a whole number from 1 to 2"),
        ({"batch": 0}, "got batch 0, expected a whole number from 1 on"),
        ({"images": -3}, "got images -3"),
        ({"seed": -1}, "got seed -1"),
        ({"seed": 2**70}, "got seed"),
        ({"strategy": "exhaustive", "steps": 0}, "got steps 0"),
        ({"timesteps": [float("nan")]}, r"got the timesteps \[nan\], expected numbers"),
        ({"timesteps": "0,many"}, "got the timesteps '0,many', expected numbers"),
        ({"timesteps": []}, r"got the timesteps \[\], expected numbers"),
        ({"timesteps": [0.5]}, "expected indices, whole numbers"),
        ({"timestep": True}, r"got the timesteps \[True\], expected numbers"),
        ({"components": []}, r"got the components \[\], expected at least one of hidden"),
        ({"components": " , "}, "got the components ' , ', expected at least one"),
        ({"tap": "1.mlp", "components": "key"}, "got components key with the given tap 1.mlp, where it has no effect"),
        ({"timestep": 10, "tap": "1.mlp", "blocks": 1}, "got blocks 1 with the given tap 1.mlp"),
        ({"components": ["nose"]}, "got components 'nose', expected one of hidden"),
        ({"strategy": "hfr", "tap": "0.query"}, "got tap 0.query with the strategy hfr, where it has no effect"),
        ({"strategy": "probe", "cutoff": 0.3}, "got cutoff 0.3 with the strategy probe"),
        ({"strategy": "probe", "amplitude": True}, "got amplitude with the strategy probe"),
        ({"strategy": "exhaustive", "head": "mlp"}, "got head 'mlp', expected one of linear, conv"),
        ({"strategy": "hfr", "head": "conv"}, "got head conv .* expected it only with exhaustive"),
        ({"strategy": "hfr", "steps": 9}, "got steps 9 .* expected it only with exhaustive, learned, gate"),
        ({"strategy": "hfr", "confidence": 0.5}, "got confidence 0.5 .* expected it only with hfr-adaptive"),
    ],
)
def test_select_refuses(backbone_folder: Path, street_data: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        select(backbone_folder, street_data, **options)


@pytest.mark.parametrize(("options", "told"), [({"images": 5}, "images 5"), ({"batch": 2}, "batch 2")])
def test_options_for_reading_images_need_images(backbone_folder: Path, options: dict[str, Any], told: str) -> None:
    for chosen in ({}, {"timestep": 10, "tap": "1.mlp"}, {"strategy": "uniform"}):
        with pytest.raises(InputError, match=f"got {told} with no data, where it has no effect"):
            select(backbone_folder, **chosen, **options)
    assert select(backbone_folder, images=0, batch=8, tap="1.mlp").strategy == "smallest-sigma"


def test_several_timesteps_at_a_given_tap_are_compared_there(backbone_folder: Path, street_data: Path) -> None:
    given: dict[str, Any] = {"strategy": "fixed", "timesteps": [0, 500], "imgsz": "32x48", "images": 2}
    found = select(backbone_folder, street_data, tap="0.value", **given)
    assert {str(score.tap) for score in found.scores} == {str(found.tap)} == {"0.value"}
    everywhere = {(s.noise, s.tap): s.value for s in select(backbone_folder, street_data, **given).scores}
    assert [score.value for score in found.scores] == [everywhere[score.noise, score.tap] for score in found.scores]


def test_components_and_timesteps_may_be_lists_in_text(backbone_folder: Path, street_data: Path) -> None:
    options: dict[str, Any] = {"components": "key, mlp", "timesteps": "0, 300", "imgsz": "32x48", "images": 2}
    found = select(backbone_folder, street_data, strategy="hfr", **options)
    assert {score.tap.component for score in found.scores} == {"key", "mlp"}
    assert {score.noise.model_timestep for score in found.scores} == {0, 300}


def test_a_bundle_is_trained_from_a_record_or_its_file(
    backbone_folder: Path,
    street_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("aselect_edge.training.run.draw_report", lambda *_: None)
    SELECTION.save(tmp_path / "selection.json")
    options: dict[str, Any] = {"imgsz": "24x32", "head": "linear", "samples": 8, "batch": 4}
    with caplog.at_level(logging.WARNING, "aselect_edge"):
        outcome = train(backbone_folder, tmp_path / "selection.json", street_data, tmp_path / "a", **options)
    assert isinstance(outcome, Outcome)
    assert outcome.curve[-1][0] == 8
    assert "the selection was made on another" in caplog.text
    other = train(
        load_backbone(str(backbone_folder)),
        SELECTION,
        str(street_data),
        str(tmp_path / "b"),
        taps="0.hidden,1.query",
        loss="lovasz",
        finetune=True,
        unfreeze="last:1",
        **options,
    )
    assert other.figures.metric == "miou"
    record = load_bundle(tmp_path / "b").record
    assert [str(tap) for tap in record.taps] == ["0.hidden", "1.query"]
    assert record.finetuned
    assert not load_bundle(tmp_path / "a").record.finetuned


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"unfreeze": "last:2"}, "without finetune"),
        ({"backbone_lr": 1e-3}, "without finetune"),
        ({"task": "pose"}, "pose"),
        ({"finetune": True, "unfreeze": "some"}, "some"),
        ({"taps": "0.nose"}, "nose"),
        ({"head": "attention"}, "attention"),
        ({"head": "hand"}, "expected one of linear, attention, conv, edge"),
        ({"loss": "huge"}, "expected one of dice, lovasz"),
        ({"task": "cls", "loss": "lovasz"}, "got loss lovasz with classification"),
        ({"cache": "features", "finetune": True}, "got cache features with fine-tuning"),
        ({"samples": -5}, "got samples -5, expected a whole number from 0 on"),
        ({"samples": 2.5}, "got samples 2.5"),
        ({"batch": -1}, "got batch -1"),
        ({"patience": -2}, "got patience -2"),
        ({"seed": -1}, "got seed -1"),
        ({"lr": -1.0}, "got lr -1.0, expected a number from 0 to 1"),
        ({"lr": float("nan")}, "got lr nan"),
        ({"finetune": True, "backbone_lr": -1.0}, "got backbone lr -1.0"),
        ({"noise_draws": 0}, "got noise draws 0, expected a whole number from 1 to 64"),
        ({"noise_draws": 65}, "got noise draws 65"),
        ({"taps": "1.mlp,0.key,1.mlp"}, "got 1.mlp twice, expected different taps"),
        ({"imgsz": 48}, "expected HxW"),
    ],
)
def test_train_refuses(
    backbone_folder: Path, street_data: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        train(backbone_folder, SELECTION, street_data, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "told"), [({"label": 1}, "label 1"), ({"family": "dit"}, "family dit"), ({"vae": "v"}, "vae v")]
)
def test_options_of_a_source_are_refused_with_a_loaded_backbone(
    backbone_folder: Path, street_data: Path, tmp_path: Path, option: dict[str, Any], told: str
) -> None:
    loaded = load_backbone(str(backbone_folder))
    refused = f"got {told} with a loaded backbone, where it has no effect"
    with pytest.raises(InputError, match=refused):
        select(loaded, timestep=300, tap="1.mlp", **option)
    with pytest.raises(InputError, match=refused):
        train(loaded, SELECTION, street_data, tmp_path / "out", imgsz="24x32", **option)
    labelled = SELECTION.model_copy(update={"label": 1})
    train(loaded, labelled, street_data, tmp_path / "out", imgsz="24x32", samples=4)


def test_a_condition_is_of_models_with_prompts(backbone_folder: Path) -> None:
    with pytest.raises(InputError, match=r"got condition with .*, which has no prompt"):
        load_backbone(str(backbone_folder), condition={"label": torch.zeros(1)}, label=1)
