"""Training on tiny streets: what should learn learns, what is frozen stays, and runs go on where they stood."""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from aselect_edge.backbones import DiT, load_backbone
from aselect_edge.backbones.noise import DIT_SCHEDULE
from aselect_edge.bundle import load_bundle
from aselect_edge.bundle.model import TapModel
from aselect_edge.data import open_segmentation
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.heads import build_head
from aselect_edge.training import Outcome, Recipe, TrainRequest, Unfreeze, checkpoint, train_bundle
from aselect_edge.training.answers import evaluate
from aselect_edge.training.denoise import Denoising, window_positions
from aselect_edge.training.finetune import noising_of
from aselect_edge.training.goal import open_goal
from aselect_edge.training.learners import HeadLearner
from aselect_edge.training.loop import train_model
from aselect_edge.training.report import draw_report
from aselect_edge.training.run import randomised
from aselect_edge.training.segmenting import Segmenting
from aselect_runtime.errors import InputError, IntegrityError, WriteError
from aselect_runtime.frames import read_image, resize
from aselect_runtime.records import COMPONENTS, HeadSpec, Noise, Resize, Selection, Tap, Task
from tests.log_lines import heard

SIZE = (24, 32)
RECIPE = Recipe(
    samples=24, batch=4, warmup=1, views=2, validations=3, window=16, denoising_windows=2, ema=0.5, synthetic=0
)
NOISE = Noise(alpha=0.99, sigma=0.14, model_timestep=50)
LINEAR = HeadSpec(kind="linear", channels=1)
CONV = HeadSpec(kind="conv", channels=8)
QUERY = Tap(block=1, component="query")
SELECTION = Selection(backbone="another", noise=NOISE, tap=QUERY, strategy="hfr", seed=5)

Train = Callable[..., Outcome]

pytestmark = pytest.mark.usefixtures("undrawn")  # one test draws by itself, and so does the command's


@pytest.fixture
def train(backbone_folder: Path, street_data: Path, tmp_path: Path) -> Train:
    """`train(finetune=False, recipe=RECIPE, tap=QUERY)`: a run in the same working folder every time."""

    def run(finetune: bool = False, recipe: Recipe = RECIPE, tap: Tap = QUERY) -> Outcome:
        torch.manual_seed(0)
        backbone = load_backbone(str(backbone_folder))
        model = TapModel(backbone.model, build_head(LINEAR, "seg", [32], 11), NOISE, [tap], SIZE, 0)
        return train_model(
            model,
            open_goal("seg", street_data, recipe),
            Resize(),
            recipe,
            tmp_path / "run",
            unfreeze=Unfreeze() if finetune else None,
            noising=noising_of(backbone.model, backbone.schedule.config),
        )

    return run


@pytest.fixture
def request_of(
    backbone_folder: Path, street_data: Path, bird_data: Path, tmp_path: Path
) -> Callable[..., TrainRequest]:
    """`request_of(task="seg", **changes)`: a short run on streets or birds."""

    def make(task: Task = "seg", **changes: Any) -> TrainRequest:
        data = street_data if task == "seg" else bird_data
        selection = SELECTION.model_copy(update={"backbone": str(backbone_folder)})
        request = TrainRequest(task, str(backbone_folder), selection, data, tmp_path / "bundle", imgsz=SIZE)
        return replace(request, **{"head": LINEAR, "recipe": RECIPE, **changes})

    return make


@pytest.fixture(scope="module")
def bird_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of images, distinguished by their colour; one has twice as many."""
    root, rng = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    colours = {"blue": (200, 60, 40), "green": (40, 200, 60), "red": (50, 40, 210)}
    for split, count in (("train", 8), ("val", 3)):
        for name, colour in colours.items():
            (root / split / name).mkdir(parents=True)
            for index in range(count * (2 if name == "red" else 1)):
                frame = np.clip(rng.normal(colour, 25, (30, 40, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / split / name / f"{index}.png"), frame)
    return root


def _weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    return dict(outcome.model.named_parameters())


@pytest.mark.parametrize("finetune", [False, True])
def test_the_parameters_to_train_change(train: Train, backbone_folder: Path, street_data: Path, finetune: bool) -> None:
    torch.manual_seed(0)
    before = build_head(LINEAR, "seg", [32], 11).body.classify.weight  # type: ignore[union-attr]
    outcome = train(finetune)
    start = [] if finetune else [0]  # of a linear head on frozen features, in closed form
    assert [row[0] for row in outcome.curve] == [*start, 8, 16, 24]
    assert outcome.figures.score == pytest.approx(max(row[2] for row in outcome.curve), abs=1e-6)
    direct = evaluate(outcome.model, open_segmentation(street_data, "val"), SIZE, Resize())
    assert outcome.figures.score == pytest.approx(direct.score, abs=0.01)  # frozen features are kept in float16
    assert not torch.equal(outcome.model.head.body.classify.weight, before)  # type: ignore[union-attr, arg-type]
    original = load_backbone(str(backbone_folder)).model.state_dict()
    changed = {
        name for name, value in outcome.model.backbone.state_dict().items() if not torch.equal(value, original[name])
    }
    assert ("blocks.1.query.weight" in changed) == finetune
    assert ("final.weight" in changed) == finetune  # by the denoising loss alone
    assert bool(changed) == finetune


def test_a_loss_that_diverges_ends_the_run(train: Train) -> None:
    with pytest.raises(InputError, match=r"got a loss of (nan|inf) after \d+ samples.*lower the learning rate"):
        train(recipe=replace(RECIPE, learning_rate=1e36, samples=80))


@pytest.mark.parametrize("unfrozen", [None, Unfreeze()])
def test_weights_that_are_no_numbers_are_not_taken_for_a_learning_rate(
    request_of: Callable[..., TrainRequest], backbone_folder: Path, unfrozen: Unfreeze | None
) -> None:
    backbone = load_backbone(str(backbone_folder))
    backbone.model.get_parameter("blocks.0.mlp_in.weight").data[0, 0] = math.nan
    with pytest.raises(InputError, match=r"got a loss of nan before the first step.*check the weights"):
        train_bundle(request_of(source=backbone, unfreeze=unfrozen))


def test_the_loss_falls_on_what_a_linear_head_can_learn(train: Train) -> None:
    outcome = train(recipe=replace(RECIPE, samples=600, validations=15, learning_rate=0.03, synthetic=0))
    assert outcome.curve[-1][1] < outcome.curve[0][1] < math.log(11)  # as much as knowing nothing costs
    assert outcome.curve[-1][1] < 0.8 * math.log(11)
    assert outcome.figures.score > 0.1  # one class everywhere would get a share of road over eleven classes


@pytest.mark.parametrize("finetune", [False, True])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetune: bool
) -> None:
    whole = train(finetune)
    (tmp_path / "run").rename(tmp_path / "whole")
    steps, loss = 0, Segmenting.loss

    def interrupted(goal: Segmenting, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += logits.requires_grad  # neither the start of a linear head nor val trains
        if steps == 3:
            raise KeyboardInterrupt
        return loss(goal, logits, labels)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenting, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(finetune)
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    resumed = train(finetune)
    assert [row[0] for row in resumed.curve] == [row[0] for row in whole.curve]
    np.testing.assert_allclose(resumed.curve, whole.curve, rtol=1e-5)
    for name, value in _weights(whole).items():
        torch.testing.assert_close(_weights(resumed)[name], value)


@pytest.mark.parametrize("finetune", [False, True])
def test_a_run_that_stops_between_validations_loses_no_step(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, finetune: bool
) -> None:
    recipe = replace(RECIPE, samples=48, validations=1)
    whole = train(finetune, recipe=recipe)
    (tmp_path / "run").rename(tmp_path / "whole")
    steps, loss = 0, Segmenting.loss

    def interrupted(goal: Segmenting, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += logits.requires_grad
        if steps == 5:
            raise KeyboardInterrupt
        return loss(goal, logits, labels)

    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)  # as if a minute had passed at each step
    monkeypatch.setattr(checkpoint, "SHARE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Segmenting, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(finetune, recipe=recipe)
    steps = 0
    with caplog.at_level("INFO"):
        resumed = train(finetune, recipe=recipe)
    assert "resuming after 4 of 12 steps" in caplog.text
    np.testing.assert_allclose(resumed.curve, whole.curve, rtol=1e-5)
    for name, value in _weights(whole).items():
        torch.testing.assert_close(_weights(resumed)[name], value)


def test_the_rows_of_a_curve_are_at_even_distances(train: Train) -> None:
    outcome = train(recipe=replace(RECIPE, samples=104, validations=4))  # 26 steps
    samples = [row[0] for row in outcome.curve]
    assert (samples[0], samples[-1], len(samples)) == (0, 104, 5)
    assert set(np.diff(samples)) <= {24, 28}  # six or seven steps of four, the last row too


def test_progress_names_the_best_figure_once_val_was_measured(request_of: Callable[..., TrainRequest]) -> None:
    said: list[str] = []
    train_bundle(request_of(head=HeadSpec(kind="conv", channels=8)), progress=lambda what, _: said.append(what))
    steps = [what for what in said if what.startswith("training, loss")]
    assert len(steps) == 6  # 24 samples in batches of 4, validated after every second step
    assert ["best on val" in what for what in steps] == [False, False, True, True, True, True]


def test_val_has_a_loss_of_its_own(train: Train, street_data: Path) -> None:
    recipe = replace(RECIPE, overlap_weight=0.0)
    outcome = train(recipe=recipe)
    val, losses = open_segmentation(street_data, "val"), []
    weights = Segmenting(open_segmentation(street_data, "train"), val, recipe).weights
    for index in range(len(val)):
        frame, label = val.read(index)
        with torch.no_grad():
            logits = outcome.model(torch.from_numpy(resize(frame, SIZE, Resize())).permute(2, 0, 1)[None].float())
        logits = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
        rows, columns = (
            ((2 * np.arange(out) + 1) * had) // (2 * out) for out, had in zip(SIZE, label.shape, strict=True)
        )
        target = torch.from_numpy(label[rows][:, columns]).long()  # the pixels that hold the centres
        per_pixel = -logits.log_softmax(1)[0].gather(0, target.clamp(max=10)[None])[0]
        known = target != val.ignore_index
        share = weights[target.clamp(max=10)] * known
        losses.append(float((per_pixel * share).sum() / share.sum()))
    assert outcome.figures.loss == pytest.approx(np.mean(losses), rel=0.02)  # frozen features are kept in float16
    best = max(outcome.curve, key=lambda row: row[2])
    assert outcome.figures.loss == pytest.approx(best[3], rel=1e-4)


def test_a_finished_run_is_not_trained_again(train: Train) -> None:
    first, again = train(), train()
    assert first.curve == again.curve
    for name, value in _weights(first).items():
        torch.testing.assert_close(_weights(again)[name], value)


def test_two_runs_in_one_folder_are_refused(request_of: Callable[..., TrainRequest]) -> None:
    """The other process is a lock of the kernel's, as a run holds it; when it is gone, the run goes on."""
    request = request_of()
    request.workdir.mkdir()
    other = os.open(request.workdir, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(WriteError, match=r"bundle\.training: is being written by another process"):
        train_bundle(request)
    os.close(other)
    assert train_bundle(request).figures.images == 3


def _masks(data: Path, split: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    for path in sorted((data / split / "labels").iterdir()):
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).astype(np.uint8))  # type: ignore[arg-type]


def test_a_val_without_labels_is_refused(street_data: Path, tmp_path: Path) -> None:
    """Its mIoU would be 0 whatever the head learns, and the first weights the best."""
    data = Path(shutil.copytree(street_data, tmp_path / "data"))
    _masks(data, "val", lambda mask: np.full_like(mask, open_segmentation(street_data, "val").ignore_index))
    with pytest.raises(InputError, match=r"val in which every pixel is .*, no label"):
        open_goal("seg", data, RECIPE)


def test_classes_that_val_lacks_are_named(street_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Path(shutil.copytree(street_data, tmp_path / "data"))
    names = [info.name for info in open_segmentation(data, "val").classes]
    _masks(data, "val", lambda mask: np.where(mask == names.index("Sky"), names.index("Road"), mask))
    open_goal("seg", data, RECIPE)
    assert "val has no pixel of Sky" in caplog.text


def test_a_single_class_is_refused(bird_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(bird_data, tmp_path / "data"))
    for split in ("train", "val"):
        for name in ("blue", "green"):
            shutil.rmtree(data / split / name)
    with pytest.raises(InputError, match="got only the class 'red', expected labels of two classes or more"):
        open_goal("cls", data, RECIPE)


def test_images_of_val_that_are_in_train_are_reported(
    request_of: Callable[..., TrainRequest], bird_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Path(shutil.copytree(bird_data, tmp_path / "data"))
    for number in range(2):
        shutil.copy(data / f"train/red/{number}.png", data / f"val/red/more{number}.png")
    train_bundle(request_of("cls", data=data))
    assert "2 of the 14 images of val are also in train (more0.png, more1.png)" in caplog.text


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


def test_windows_carry_the_positions_of_where_they_lie(backbone_folder: Path) -> None:
    model = load_backbone(str(backbone_folder)).model
    assert isinstance(model, DiT)
    positions, corners, side = window_positions(model, np.random.default_rng(0), 8, (16, 24), 20)
    assert side == 8
    table = model.positions((4, 6)).unflatten(0, (4, 6))
    assert positions.shape == (20, 4, 32)
    for window, (top, left) in zip(positions, corners // 4, strict=True):
        torch.testing.assert_close(window, table[top : top + 2, left : left + 2].flatten(0, 1))


def test_what_the_record_refuses_is_refused_before_training(request_of: Callable[..., TrainRequest]) -> None:
    taps = tuple(Tap(block=block, component=component) for block in (0, 1) for component in COMPONENTS)
    with pytest.raises(InputError, match="taps"):
        train_bundle(request_of(taps=taps), _never)


def test_a_selection_of_another_backbone_is_reported(request_of: Callable[..., TrainRequest]) -> None:
    told: list[str] = []
    with heard(told.append):
        train_bundle(request_of(selection=SELECTION))
    assert any("made on another" in line for line in told)


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(InputError, match="got prediction_type 'sample'"):
        Denoising({**DIT_SCHEDULE, "prediction_type": "sample"}, torch.device("cpu"))


@pytest.mark.parametrize("task", ["seg", "cls"])
@pytest.mark.parametrize(
    ("unfreeze", "fresh"), [(None, False), (Unfreeze(), False), (Unfreeze.parse("lora:2"), False), (None, True)]
)
def test_training_writes_a_working_bundle(
    request_of: Callable[..., TrainRequest], task: Task, unfreeze: Unfreeze | None, fresh: bool
) -> None:
    request = request_of(task, unfreeze=unfreeze, random_backbone=fresh)
    outcome = train_bundle(request)
    loaded = load_bundle(request.out)
    assert loaded.record.task == task
    assert loaded.record.noise_seed == 5
    assert loaded.record.taps == (QUERY,)
    assert (request.out / "backbone.safetensors").is_file() == (unfreeze is not None or fresh)
    metric = {"seg": "val_miou", "cls": "val_top1"}[task]
    assert loaded.record.metrics == {metric: outcome.figures.score, "samples": RECIPE.samples}
    pixels = torch.rand(2, 3, *SIZE) * 255
    torch.testing.assert_close(loaded.deployed()(pixels), outcome.model(pixels), rtol=0.05, atol=0.05)
    assert (request.workdir / "curve.csv").read_text().splitlines()[0] == f"samples,loss,{metric},val_loss"


@pytest.mark.parametrize("task", ["seg", "cls"])
def test_images_are_left_to_judge_by(request_of: Callable[..., TrainRequest], task: Task) -> None:
    request = request_of(task)
    outcome = train_bundle(request)
    goal = open_goal(task, request.data, RECIPE)
    draw_report(outcome, goal, Resize(), request.workdir)
    for image in ("curve", "confusion", "examples", "best", "worst"):
        assert read_image(request.workdir / f"{image}.png").std() > 1
    page = (request.workdir / "report.html").read_text(encoding="utf-8")
    assert f"{outcome.figures.score:.4f} on {outcome.figures.images} images" in page
    assert all(info.name in page for info in goal.val.classes)
    assert page.count("data:image/png;base64,") == 5
    squares = ["rgb({} {} {})".format(*info.colour) in page for info in goal.val.classes]
    assert squares == [task == "seg"] * len(squares)
    assert not re.search(r"https?://|<script", page)


@pytest.mark.parametrize(("task", "unfreeze"), [("seg", None), ("cls", Unfreeze())])
def test_the_same_seed_gives_the_same_bundle(
    request_of: Callable[..., TrainRequest], tmp_path: Path, task: Task, unfreeze: Unfreeze | None
) -> None:
    # The task's own head: the one for classification has dropout.
    runs = [request_of(task, unfreeze=unfreeze, head=None, out=tmp_path / name) for name in ("a", "b")]
    other = replace(runs[0], out=tmp_path / "c", recipe=replace(RECIPE, seed=1))
    for run in (*runs, other):
        train_bundle(run)
    a, b, c = (load_bundle(run.out).record.files for run in (*runs, other))
    assert a == b
    assert a["head.safetensors"] != c["head.safetensors"]


def test_a_classifier_learns_what_it_is_shown(request_of: Callable[..., TrainRequest], bird_data: Path) -> None:
    recipe = replace(RECIPE, samples=400, batch=8, learning_rate=0.03, validations=5)
    outcome = train_bundle(request_of("cls", recipe=recipe))
    assert outcome.figures.score > 0.8
    assert outcome.figures.matrix.sum() == 12
    assert outcome.figures.matrix.sum(1).tolist() == [3, 3, 6]
    model = load_bundle(request_of().out).deployed()
    frame = resize(read_image(bird_data / "val" / "red" / "0.png"), SIZE, Resize())
    pixels = torch.from_numpy(frame)[None].permute(0, 3, 1, 2).float()
    assert model(pixels).shape == (1, 3)


def test_training_ends_when_val_has_stopped_getting_better(
    request_of: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = HeadLearner.validate
    scores = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.3])

    def scored(self: HeadLearner, module: torch.nn.Module) -> Figures:
        return replace(validate(self, module), score=next(scores))

    recipe = replace(RECIPE, samples=80, validations=10, patience=2)
    with monkeypatch.context() as patch:
        patch.setattr(HeadLearner, "validate", scored)
        outcome = train_bundle(request_of(recipe=recipe, head=CONV))
    assert [row[2] for row in outcome.curve] == [0.2, 0.5, 0.4, 0.5]  # as good is not better
    assert load_bundle(request_of().out).record.metrics["samples"] == 32
    again = train_bundle(request_of(recipe=recipe, head=CONV))
    assert again.curve == outcome.curve


def test_two_taps_and_a_shallow_one_are_trained(request_of: Callable[..., TrainRequest]) -> None:
    taps = (Tap(block=0, component="mlp"), QUERY)
    train_bundle(request_of(taps=taps))
    assert load_bundle(request_of().out).record.taps == taps
    train_bundle(request_of(head=HeadSpec(kind="edge", channels=8), out=request_of().out.with_name("edge")))
    record = load_bundle(request_of().out.with_name("edge")).record
    assert record.taps == (Tap(block=0, component="hidden"), QUERY)


def test_runs_share_a_cache_of_features(request_of: Callable[..., TrainRequest], tmp_path: Path) -> None:
    told: list[str] = []
    cache = tmp_path / "cache"
    for name in ("a", "b"):
        told.clear()
        recipe = replace(RECIPE, learning_rate=1e-3 if name == "a" else 1e-2)
        request = request_of(cache=cache, out=tmp_path / name, recipe=recipe)
        train_bundle(request, lambda what, share: told.append(f"{what} {share}"))
        assert not (request.workdir / "features").exists()
    assert not any(line.startswith("features") and not line.endswith(" 1.0") for line in told)


def test_a_random_backbone_is_not_the_pretrained_one(
    request_of: Callable[..., TrainRequest], backbone_folder: Path
) -> None:
    outcome = train_bundle(request_of(random_backbone=True))
    trained, pretrained = outcome.model.backbone, load_backbone(str(backbone_folder)).model
    assert isinstance(trained, DiT)
    assert isinstance(pretrained, DiT)
    assert not torch.equal(trained.patch_embed.weight, pretrained.patch_embed.weight)
    bare = DiT(replace(pretrained.config, attention_bias=False))  # these layers have no bias that could be set to zero
    loaded = replace(load_backbone(str(backbone_folder)), model=bare)
    fresh = randomised(loaded, 0).model
    assert not torch.equal(fresh.state_dict()["blocks.0.query.weight"], bare.state_dict()["blocks.0.query.weight"])


def test_an_out_that_is_not_ours_is_refused_before_training(
    request_of: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"bundle\.json"):
        train_bundle(request_of(out=tmp_path), _never)


def test_data_of_the_other_task_are_refused(request_of: Callable[..., TrainRequest], bird_data: Path) -> None:
    with pytest.raises(InputError, match="choose the task cls"):
        train_bundle(request_of(data=bird_data), _never)
    with pytest.raises(InputError, match="expected linear or attention"):
        train_bundle(request_of("cls", head=HeadSpec(kind="conv", channels=8)), _never)


def _never(what: str, share: float) -> None:
    pytest.fail(f"trained for nothing: {what} {share}")
