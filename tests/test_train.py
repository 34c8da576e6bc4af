"""Training on tiny streets: what should learn learns, what is frozen stays, and runs go on where they stood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge.backbones import DiT, DiTConfig, load_backbone
from aselect_edge.backbones.noise import DIT_SCHEDULE
from aselect_edge.bundle import load_bundle
from aselect_edge.data import SegmentationData, open_segmentation
from aselect_edge.denoise import Denoising, window_positions
from aselect_edge.errors import InputError, IntegrityError
from aselect_edge.heads import build_head
from aselect_edge.perception import Perception
from aselect_edge.records import COMPONENTS, HeadSpec, Noise, Resize, Selection, Tap
from aselect_edge.training import Outcome, Recipe, train_bundle
from aselect_edge.training.loop import evaluate, train_segmentation
from aselect_edge.training.loss import class_weights, denoising_loss, segmentation_loss

SIZE = (24, 32)
RECIPE = Recipe(samples=24, batch=4, warmup=1, views=2, validations=3, window=16, denoising_windows=2, ema=0.5)
NOISE = Noise(alpha=0.99, sigma=0.14, model_timestep=50)
LINEAR = HeadSpec(kind="linear", channels=1)
QUERY = Tap(block=1, component="query")

Train = Callable[..., Outcome]


@pytest.fixture
def train(backbone_folder: Path, street_data: Path, tmp_path: Path) -> Train:
    """`train(finetune=False, recipe=RECIPE, tap=QUERY)`: a run in the same working folder every time."""
    split, val = (open_segmentation(street_data, name) for name in ("train", "val"))

    def run(finetune: bool = False, recipe: Recipe = RECIPE, tap: Tap = QUERY) -> Outcome:
        torch.manual_seed(0)
        model = Perception(
            load_backbone(str(backbone_folder)).model, build_head(LINEAR, "seg", [32], 11), NOISE, [tap], SIZE, 0
        )
        return train_segmentation(model, split, val, Resize(), recipe, tmp_path / "run", DIT_SCHEDULE, finetune)

    return run


def _weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    return dict(outcome.model.named_parameters())


@pytest.mark.parametrize("finetune", [False, True])
def test_what_should_learn_learns(train: Train, backbone_folder: Path, street_data: Path, finetune: bool) -> None:
    torch.manual_seed(0)
    before = build_head(LINEAR, "seg", [32], 11).body.classify.weight  # type: ignore[union-attr]
    outcome = train(finetune)
    assert [row[0] for row in outcome.curve] == [8, 16, 24]
    assert outcome.val_miou == max(row[2] for row in outcome.curve)
    assert outcome.val_miou == pytest.approx(
        evaluate(outcome.model, open_segmentation(street_data, "val"), SIZE, Resize()).miou()
    )
    assert not torch.equal(outcome.model.head.body.classify.weight, before)  # type: ignore[union-attr, arg-type]
    original = load_backbone(str(backbone_folder)).model.state_dict()
    changed = {
        name for name, value in outcome.model.backbone.state_dict().items() if not torch.equal(value, original[name])
    }
    assert ("blocks.1.query.weight" in changed) == finetune
    assert ("final.weight" in changed) == finetune  # by the denoising loss alone
    assert bool(changed) == finetune


def test_the_loss_falls_on_what_a_linear_head_can_learn(train: Train) -> None:
    outcome = train(recipe=replace(RECIPE, samples=600, validations=15, learning_rate=0.03, synthetic=0))
    assert outcome.curve[-1][1] < 0.8 * outcome.curve[0][1]
    assert outcome.val_miou > 0.1  # one class everywhere would get a share of road over eleven classes


@pytest.mark.parametrize("finetune", [False, True])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetune: bool
) -> None:
    import aselect_edge.training.loop as module

    recipe = replace(RECIPE, denoising=0.0)  # its noise is drawn from torch's generator, which a checkpoint leaves out
    whole = train(finetune, recipe)
    (tmp_path / "run").rename(tmp_path / "whole")
    calls = 0

    def interrupted(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return segmentation_loss(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "segmentation_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(finetune, recipe)
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    resumed = train(finetune, recipe)
    assert [row[0] for row in resumed.curve] == [row[0] for row in whole.curve]
    np.testing.assert_allclose(resumed.curve, whole.curve, rtol=1e-5)
    for name, value in _weights(whole).items():
        torch.testing.assert_close(_weights(resumed)[name], value)


def test_a_finished_run_is_not_trained_again(train: Train) -> None:
    first, again = train(), train()
    assert first.curve == again.curve
    for name, value in _weights(first).items():
        torch.testing.assert_close(_weights(again)[name], value)


def test_a_checkpoint_of_another_run_is_refused(train: Train) -> None:
    train()
    with pytest.raises(InputError, match=r"checkpoint\.pt: got a checkpoint of another"):
        train(recipe=replace(RECIPE, learning_rate=1.0))
    with pytest.raises(InputError, match="another"):
        train(tap=Tap(block=0, component="query"))
    with pytest.raises(InputError, match="another"):
        train(finetune=True)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
def test_a_corrupt_checkpoint_is_refused(train: Train, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"checkpoint\.pt: unreadable"):
        train()


def test_a_tap_beyond_the_backbone_is_refused(train: Train) -> None:
    for finetune in (False, True):
        with pytest.raises(InputError, match=r"got a tap at block 3, expected 0 to 2"):
            train(finetune, tap=Tap(block=3, component="query"))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), classes=st.integers(1, 4), ignored=st.floats(0, 1))
def test_ignored_pixels_do_not_count_in_the_loss(seed: int, classes: int, ignored: float) -> None:
    torch.manual_seed(seed)
    logits, labels = torch.randn(2, classes, 4, 6), torch.randint(0, classes, (2, 4, 6))
    hidden = torch.rand(2, 4, 6) < ignored
    if hidden.all():
        return
    weights = torch.rand(classes) + 0.1
    masked = labels.where(~hidden, 255)
    loss = segmentation_loss(logits, masked, weights, 255, 0.5)
    scrambled = logits.where(~hidden[:, None], 100 * torch.randn(2, classes, 4, 6))
    assert torch.isfinite(loss)
    torch.testing.assert_close(segmentation_loss(scrambled, masked, weights, 255, 0.5), loss)
    torch.testing.assert_close(
        segmentation_loss(logits, masked, weights, 255, 0),
        F.cross_entropy(logits, masked, weights, ignore_index=255),
    )


def test_the_loss_of_a_perfect_answer_is_the_least() -> None:
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    perfect = 50.0 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    weights = torch.ones(3)
    assert segmentation_loss(perfect, labels, weights, 255, 0.5) < 0.02
    assert segmentation_loss(-perfect, labels, weights, 255, 0.5) > 10


def test_a_batch_without_any_label_teaches_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 4, 4), 255), torch.ones(3), 255, 0.5)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_rare_classes_weigh_more(street_data: Path) -> None:
    data: SegmentationData = open_segmentation(street_data, "train")
    weights = class_weights(data)
    counts = sum(np.bincount(data.read(i)[1].ravel(), minlength=11)[:11] for i in range(len(data)))
    order = np.argsort(-np.asarray(counts), kind="stable")
    assert (np.diff(weights.numpy()[order]) >= 0).all()
    assert weights.max() <= 5


def test_windows_carry_the_positions_of_where_they_lie(backbone_folder: Path) -> None:
    model = load_backbone(str(backbone_folder)).model
    assert isinstance(model, DiT)
    positions, corners, side = window_positions(model, np.random.default_rng(0), 8, (16, 24), 20)
    assert side == 8
    table = model.positions((4, 6)).unflatten(0, (4, 6))
    assert positions.shape == (20, 4, 32)
    for window, (top, left) in zip(positions, corners // 4, strict=True):
        torch.testing.assert_close(window, table[top : top + 2, left : left + 2].flatten(0, 1))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), window=st.integers(1, 40))
def test_windows_fit_any_frame(rows: int, columns: int, window: int) -> None:
    model = DiT(DiTConfig(2, 16, 3, num_layers=1, patch_size=4, sample_size=16, num_embeds_ada_norm=3))
    recipe = replace(RECIPE, window=window)
    pixels = torch.rand(2, 3, rows * 4, columns * 4) * 255
    loss = denoising_loss(Denoising(DIT_SCHEDULE, torch.device("cpu")), model, pixels, np.random.default_rng(0), recipe)
    assert torch.isfinite(loss)


def test_what_the_record_refuses_is_refused_before_training(
    backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    selection = Selection(backbone=str(backbone_folder), noise=NOISE, tap=QUERY, strategy="hfr")

    def never(what: str, share: float) -> None:
        pytest.fail(f"trained for nothing: {what} {share}")

    taps = [Tap(block=block, component=component) for block in (0, 1) for component in COMPONENTS]
    with pytest.raises(InputError, match="taps"):
        train_bundle(
            "seg", str(backbone_folder), selection, street_data, tmp_path / "new", taps, imgsz=SIZE, tell=never
        )


def test_a_selection_made_elsewhere_is_told(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    selection = Selection(backbone="another", noise=NOISE, tap=QUERY, strategy="hfr")
    told: list[str] = []
    train_bundle(
        "seg",
        str(backbone_folder),
        selection,
        street_data,
        tmp_path / "bundle",
        imgsz=SIZE,
        head=LINEAR,
        recipe=RECIPE,
        warn=told.append,
    )
    assert any("made on another" in line for line in told)


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(InputError, match="got prediction_type 'sample'"):
        Denoising({**DIT_SCHEDULE, "prediction_type": "sample"}, torch.device("cpu"))


@pytest.mark.parametrize(("finetune", "fresh"), [(False, False), (True, False), (False, True)])
def test_a_bundle_comes_out_and_works(
    backbone_folder: Path, street_data: Path, tmp_path: Path, finetune: bool, fresh: bool
) -> None:
    selection = Selection(backbone=str(backbone_folder), noise=NOISE, tap=QUERY, strategy="hfr", seed=5)
    out = tmp_path / "bundle"
    outcome = train_bundle(
        "seg",
        str(backbone_folder),
        selection,
        street_data,
        out,
        imgsz=SIZE,
        head=LINEAR,
        finetune=finetune,
        random_backbone=fresh,
        recipe=RECIPE,
    )
    loaded = load_bundle(out)
    assert loaded.record.noise_seed == 5
    assert loaded.record.taps == (QUERY,)
    assert (out / "backbone.safetensors").is_file() == (finetune or fresh)
    assert loaded.record.metrics == {"val_miou": outcome.val_miou, "samples": RECIPE.samples}
    pixels = torch.rand(2, 3, *SIZE) * 255
    expected = outcome.model(pixels)
    torch.testing.assert_close(loaded.deployed()(pixels), expected, rtol=0.05, atol=0.05)
    training = tmp_path / "bundle.training"
    assert (training / "curve.png").stat().st_size > 1000
    assert (training / "curve.csv").read_text().splitlines()[0] == "samples,loss,val_miou"


def test_a_random_backbone_is_not_the_pretrained_one(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    selection = Selection(backbone=str(backbone_folder), noise=NOISE, tap=QUERY, strategy="hfr")
    outcome = train_bundle(
        "seg",
        str(backbone_folder),
        selection,
        street_data,
        tmp_path / "bundle",
        imgsz=SIZE,
        head=LINEAR,
        random_backbone=True,
        recipe=RECIPE,
    )
    trained, pretrained = outcome.model.backbone, load_backbone(str(backbone_folder)).model
    assert isinstance(trained, DiT)
    assert isinstance(pretrained, DiT)
    assert not torch.equal(trained.patch_embed.weight, pretrained.patch_embed.weight)


def test_an_out_that_is_not_ours_is_refused_before_training(
    backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    selection = Selection(backbone=str(backbone_folder), noise=NOISE, tap=QUERY, strategy="hfr")

    def never(what: str, share: float) -> None:
        pytest.fail(f"trained for nothing: {what} {share}")

    with pytest.raises(InputError, match=r"bundle\.json"):
        train_bundle("seg", str(backbone_folder), selection, street_data, tmp_path, recipe=RECIPE, tell=never)
    with pytest.raises(InputError, match="expected seg"):
        train_bundle("cls", str(backbone_folder), selection, street_data, tmp_path / "new", tell=never)
