"""`aselect-select` as a call: from a backbone and a folder to a record, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.family import Pixels
from aselect_edge.backbones.sd3 import SD3
from aselect_edge.selection import STRATEGIES, Request, Settings, select_tap
from aselect_edge.training import TrainRequest, train_bundle
from aselect_runtime.errors import InputError
from aselect_runtime.records import COMPONENTS, DataFingerprint, Noise, Selection, Tap
from tests.log_lines import heard

STEPS = [0, 100, 600]
SIZE = (24, 32)


@pytest.fixture(scope="module")
def backbone(backbone_folder: Path) -> LoadedBackbone:
    return load_backbone(str(backbone_folder))


def _request(strategy: str, **more: object) -> Request:
    few = {"images": 4, "imgsz": SIZE, "timesteps": STEPS, "batch": 2, "settings": Settings(steps=10)}
    return Request(strategy=strategy, **{**few, **more})  # type: ignore[arg-type]


def _same(a: Selection, b: Selection) -> bool:
    """But for the seconds that they took."""
    assert a.cost is not None
    assert b.cost is not None
    costs = [cost.model_copy(update={"seconds": 0.0}) for cost in (a.cost, b.cost)]
    return costs[0] == costs[1] and a.model_copy(update={"cost": None}) == b.model_copy(update={"cost": None})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_select_reads_a_labelled_folder(backbone_folder: Path, street_data: Path, strategy: str) -> None:
    shares: list[float] = []

    def run() -> Selection:
        return select_tap(
            str(backbone_folder), street_data, _request(strategy), progress=lambda _, share: shares.append(share)
        )

    selection = run()
    assert _same(selection, run())
    assert selection.strategy == strategy
    assert selection.data is not None
    assert selection.data.images == 4
    assert Selection.parse(selection.to_json()) == selection
    assert all(0 < share <= 1 for share in shares)
    assert not shares or shares[-1] == 1.0
    assert selection.cost is not None
    assert (selection.cost.forward_passes == 0) == (strategy in ("uniform", "smallest-sigma"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_that_cannot_tell_candidates_apart_are_refused(
    backbone_folder: Path, street_data: Path, tmp_path: Path, split: str
) -> None:
    """With one class in train, or none in val, every candidate has the same score."""
    data = Path(shutil.copytree(street_data, tmp_path / "data"))
    for path in (data / split / "labels").iterdir():
        cv2.imwrite(str(path), np.full((48, 64), 0 if split == "train" else 255, np.uint8))
    classes = json.loads((data / "classes.json").read_text())
    (data / "classes.json").write_text(json.dumps({**classes, "ignore_index": 255}))
    with pytest.raises(InputError, match=f"in the labels of {split} .* every candidate would have the same score"):
        select_tap(str(backbone_folder), data, _request("probe"))


def test_a_mixture_cannot_be_deployed(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    selection = select_tap(str(backbone_folder), street_data, _request("gate"))
    with pytest.raises(InputError, match="mixes 3 noise levels"):
        train_bundle(TrainRequest("seg", str(backbone_folder), selection, street_data, tmp_path / "bundle"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strategy", ["hfr", "probe"])
def test_an_unreadable_image_is_named_and_skipped(
    backbone_folder: Path, street_data: Path, tmp_path: Path, strategy: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(street_data, data)
    for copy in range(20):
        for kind in ("images", "labels"):
            shutil.copy(data / "train" / kind / "0.png", data / "train" / kind / f"copy{copy:02}.png")
    (data / "train/images/copy07.png").write_bytes(b"nonsense")
    said: list[str] = []
    request = _request(strategy, images=100, timesteps=[0])
    with heard(said.append):
        selection = select_tap(str(backbone_folder), data, request)
    assert selection.data is not None
    assert selection.data.images == 25
    assert len(said) == 1
    assert "copy07.png" in said[0]
    for name in ("copy08.png", "copy09.png"):
        (data / "train/images" / name).write_bytes(b"")
    with pytest.raises(InputError, match="got 3 unreadable images of 26, expected at most 5 %"):
        select_tap(str(backbone_folder), data, request)


def test_the_fingerprint_distinguishes_images(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    shutil.copytree(street_data / "train/images", tmp_path / "images")

    def fingerprint() -> DataFingerprint | None:
        return select_tap(str(backbone_folder), tmp_path / "images", _request("uniform")).data

    before = fingerprint()
    for path in (tmp_path / "images").iterdir():
        cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    assert fingerprint() != before


def test_frames_of_a_video_are_accepted(backbone_folder: Path, clip: Path, tmp_path: Path) -> None:
    selection = select_tap(str(backbone_folder), clip, _request("hfr"))
    assert selection.data is not None
    assert selection.data.images == 4
    (tmp_path / "video.mp4").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a video"):
        select_tap(str(backbone_folder), tmp_path / "video.mp4", _request("hfr"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="got no image"):
        select_tap(str(backbone_folder), tmp_path / "empty", _request("hfr"))


def test_a_budget_of_blocks_and_components_leaves_the_others_out(backbone_folder: Path, street_data: Path) -> None:
    def scores(**limits: object) -> dict[tuple[Noise, Tap], float]:
        selection = select_tap(str(backbone_folder), street_data, _request("hfr", **limits))
        return {(score.noise, score.tap): score.value for score in selection.scores}

    whole, some = scores(), scores(blocks=2, components=("query", "mlp"))
    assert some == {
        key: value for key, value in whole.items() if key[1].block < 2 and key[1].component in ("query", "mlp")
    }


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"imgsz": (24, 34)}, "expected multiples"),
        ({"imgsz": (16, 16)}, "a token grid of 4x4"),
        ({"timesteps": [1000]}, "expected 0 to 999"),
        ({"timesteps": [-1]}, "expected 0 to 999"),
        ({"settings": Settings(tap=Tap(block=9, component="query"))}, "expected 0 to 2"),
        ({"strategy": "oracle"}, "got strategy 'oracle', expected one of hfr, "),
        ({"strategy": "probe", "task": "cls"}, "choose the task seg"),
    ],
)
def test_what_the_backbone_cannot_take_is_refused(
    backbone_folder: Path, street_data: Path, wrong: dict[str, object], fault: str
) -> None:
    with pytest.raises(InputError, match=fault):
        select_tap(str(backbone_folder), street_data, _request(**{"strategy": "hfr", **wrong}))  # type: ignore[arg-type]


def test_what_is_named_twice_is_scanned_once(backbone: LoadedBackbone, street_data: Path) -> None:
    twice = _request("hfr", components=("mlp", "query", "mlp"), timesteps=[100, 0, 100])
    selection = select_tap(backbone, street_data, twice)
    assert len(selection.scores) == 2 * 2 * backbone.model.depth


def _spoiled(backbone: LoadedBackbone, spoil: Callable[[Tensor], Tensor]) -> LoadedBackbone:
    """The backbone with features that were tampered with."""
    model = load_backbone(backbone.source).model
    honest = model.walk
    model.walk = lambda *arguments: ((tap, spoil(f)) for tap, f in honest(*arguments))  # type: ignore[method-assign]
    return replace(backbone, model=model)


@pytest.mark.parametrize("strategy", ["hfr", "hfr-signal", "hfr-adaptive", "probe", "exhaustive", "learned", "gate"])
def test_broken_features_are_an_error_and_no_result(backbone: LoadedBackbone, street_data: Path, strategy: str) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        select_tap(_spoiled(backbone, lambda f: f * float("nan")), street_data, _request(strategy))
    with pytest.raises(InputError, match=r"got 47 tokens at .*, expected 6x8"):
        select_tap(_spoiled(backbone, lambda f: f[:, 1:]), street_data, _request(strategy))


@pytest.mark.parametrize("strategy", ["hfr", "hfr-signal", "probe", "learned"])
def test_another_family_is_scanned_alike(street_data: Path, strategy: str) -> None:
    config = {"num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 3, "sample_size": 16, "in_channels": 3}
    config |= {"joint_attention_dim": 20, "caption_projection_dim": 24, "pooled_projection_dim": 12}
    torch.manual_seed(0)
    model = SD3.from_json({"_class_name": "SD3Transformer2DModel", **config}).eval()
    condition = {"prompt": torch.randn(1, 5, 20), "pooled": torch.randn(1, 12)}
    backbone = LoadedBackbone(model, Pixels(), condition, SD3.schedule(None), "random")
    selection = select_tap(backbone, street_data, _request(strategy, timesteps=[50, 900], imgsz=(16, 24)))
    assert {score.noise.sigma for score in selection.scores} <= {0.05, 0.9}
    assert strategy == "learned" or len(selection.scores) == 2 * 3 * len(COMPONENTS)
    assert selection.tap.block < 3


OLD_RECORD = """{
  "schema": "selection/1.0",
  "backbone": "shipped",
  "noise": {"alpha": 0.9999793467773075, "sigma": 0.006426975869671964, "model_timestep": 0.0},
  "tap": {"block": 1, "component": "mlp"},
  "strategy": "probe",
  "scores": [
    {
      "noise": {"alpha": 0.9999793467773075, "sigma": 0.006426975869671964, "model_timestep": 0.0},
      "tap": {"block": 2, "component": "mlp"},
      "value": 0.1512210640630091
    }
  ],
  "data": {"images": 48, "sha256": "d32defd8d4a6968f43bf022a5fbb1a5f0cf9baadb2e24e795e4a11c135335423"},
  "seed": 0,
  "note": "mIoU over val tokens of a ridge probe; 48 train and 48 val frames."
}"""
"""As version 1.0 wrote it."""


def test_an_old_record_still_loads() -> None:
    record = Selection.parse(OLD_RECORD)
    assert (record.strategy, str(record.tap), len(record.scores)) == ("probe", "1.mlp", 1)
    assert record.cost is None
