"""The command that trains one row on the CPU: it resumes, keeps what is done, and refuses a mixture."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aselect_edge.bundle import load_bundle
from aselect_edge.training import fit
from aselect_edge.training.efficientnet import EfficientNetLite0
from aselect_edge.training.loop import learn
from aselect_edge.training.recipe import Recipe
from aselect_runtime.errors import InputError
from aselect_runtime.frames import restore
from aselect_runtime.records import Resize, Task
from research import row_data, row_jobs, row_models, row_training
from research.gpu_results import collect
from research.row_data import Labelled, Split
from research.row_learner import DeviceLearner, figures_on
from research.row_models import load_guide
from research.rows import main
from tests.research.packed import write_data


@pytest.fixture(scope="module")
def data(street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("rows") / "data", street_data)


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_data, "STREETS", 4)
    for task, settings in row_jobs.SETTINGS.items():
        monkeypatch.setitem(row_jobs.SETTINGS, task, replace(settings, imgsz=(48, 64)))


def train(data: Path, out: Path, task: Task = "seg", **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"samples": 12, "batch": 2, "validations": 3, "lr": 2e-3, "backbone_lr": 5e-4} | options
    main(data, task, out=out, **given)
    row, seed = given.get("row", "finetuned"), given.get("seed", 0)
    found: dict[str, Any] = json.loads((out / f"{task}-{row}-{seed}.json").read_text())
    return found


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the step raise KeyboardInterrupt, once."""
    losses = DeviceLearner.losses

    def interrupted(self: DeviceLearner, at: int, rng: Any) -> Any:
        if at == step:
            monkeypatch.setattr(DeviceLearner, "losses", losses)
            raise KeyboardInterrupt
        return losses(self, at, rng)

    monkeypatch.setattr(DeviceLearner, "losses", interrupted)


def test_an_interrupted_row_ends_as_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(data, tmp_path / "whole")
    interrupt(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "parts")
    assert (tmp_path / "parts/seg-finetuned-0/checkpoint.pt").is_file()
    resumed = train(data, tmp_path / "parts")
    assert resumed["curve"] == whole["curve"]
    assert [row[0] for row in whole["curve"]] == [4, 8, 12]
    bundles = [tmp_path / name / "seg-finetuned-0/bundle" for name in ("whole", "parts")]
    record = load_bundle(bundles[0]).record
    assert (record.finetuned, [str(tap) for tap in record.taps]) == (True, ["0.hidden", "4.mlp"])
    for name in ("backbone.safetensors", "head.safetensors"):
        assert (bundles[0] / name).read_bytes() == (bundles[1] / name).read_bytes()
    assert not list((tmp_path / "parts/seg-finetuned-0").glob("*.pt"))


def test_a_row_that_is_done_is_kept_and_another_recipe_does_not_resume_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, "cls", validations=6)
    with pytest.raises(InputError, match="another backbone, tap, size, data or recipe"):
        train(data, tmp_path, "cls", validations=6, lr=1e-3)
    done = train(data, tmp_path, "cls", validations=6)
    assert done["changes"]["learning_rate"] == 2e-3
    interrupt(monkeypatch, 0)
    assert train(data, tmp_path, "cls", validations=6) == done


def test_the_seconds_are_those_of_all_calls(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_training, "LEAST", 1e-3)
    (tmp_path / "seg-finetuned-0").mkdir()
    (tmp_path / "seg-finetuned-0/seconds.json").write_text('{"seconds": 3600}')
    found = train(data, tmp_path, samples=10**6, seconds=3600)
    assert found["samples"] == 2, "one step, because an hour was over"
    assert found["seconds"] >= 3600


def test_a_result_of_other_settings_is_not_taken_for_this_one(data: Path, tmp_path: Path) -> None:
    done = train(data, tmp_path)
    assert train(data, tmp_path) == done
    with pytest.raises(InputError, match=r"seg-finetuned-0\.json: got a result of .* choose another folder"):
        train(data, tmp_path, label_stride=2)
    with pytest.raises(InputError, match=r"'small': True"):
        train(data, tmp_path, small=True)


def test_a_row_starts_from_the_weights_of_a_bundle(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "first")
    first = tmp_path / "first/seg-finetuned-0/bundle"
    train(data, tmp_path / "again", start=first, lr=0.0, backbone_lr=0.0, samples=2, validations=1)
    weights, kept = (
        dict(load_bundle(path).reference().named_parameters())
        for path in (first, tmp_path / "again/seg-finetuned-0/bundle")
    )
    assert all(torch.equal(value, weights[name]) for name, value in kept.items())
    assert set(kept) == set(weights)
    with pytest.raises(InputError, match=r"bundle: got classes .* expected .*jay.*start from another bundle"):
        train(data, tmp_path / "birds", "cls", start=first)


def test_an_interrupted_row_goes_on_elsewhere_from_its_best_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the time of a GPU machine ends: only the collected results are left."""
    interrupt(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "rows")
    expected = torch.load(tmp_path / "rows/seg-finetuned-0/checkpoint.pt", weights_only=True)["best_weights"]
    collect(tmp_path, tmp_path)
    parts = sorted(tmp_path.glob("results.zip.*"))
    (tmp_path / "results.zip").write_bytes(b"".join(part.read_bytes() for part in parts))
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        archive.extractall(tmp_path / "left")
    start = tmp_path / "left/interrupted/seg-finetuned-0.safetensors"
    assert start.with_suffix(".csv").read_text().startswith("samples,loss")
    train(data, tmp_path / "again", start=start, lr=0.0, backbone_lr=0.0, samples=2, validations=1)
    kept = dict(load_bundle(tmp_path / "again/seg-finetuned-0/bundle").reference().named_parameters())

    def wanted(name: str) -> torch.Tensor:
        value: torch.Tensor = expected[name]
        return value.half().float() if value.ndim > 1 else value  # as a bundle stores it

    assert all(torch.equal(value, wanted(name)) for name, value in kept.items())
    with pytest.raises(InputError, match=r"seg-finetuned-0\.safetensors: got no weights of this row's model"):
        train(data, tmp_path / "birds", "cls", start=start)


def test_labels_with_a_stride_are_those_of_the_pixels_that_they_stand_for() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 90, 120), generator=generator, dtype=torch.uint8)
    blocks = torch.randint(0, 5, (4, 9, 12), generator=generator, dtype=torch.uint8)
    split = Split(pixels, blocks.repeat_interleave(10, 1).repeat_interleave(10, 2))
    whole, half = (
        Labelled("seg", cast(Any, None), (48, 64), split, {}, None, stride).batch(
            torch.Generator().manual_seed(1), Recipe(batch=4, synthetic=0)
        )
        for stride in (1, 2)
    )
    assert torch.equal(whole[0], half[0])
    assert (tuple(whole[1].shape), tuple(half[1].shape)) == ((4, 48, 64), (4, 24, 32))
    near = torch.stack([whole[1][:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
    assert (near == half[1]).any(0).float().mean() > 0.99


def test_what_is_unknown_or_missing_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got row 'best', expected one of cnn, finetuned"):
        train(data, tmp_path, row="best")
    with pytest.raises(InputError, match=r"seg-teacher-0\.safetensors: no such file"):
        train(data, tmp_path, row="ship-edge")


def test_the_time_before_the_first_step_counts(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guided row may wait for its teacher, and must end in time nevertheless."""
    now = 0.0
    used: list[tuple[float, float]] = []

    def waiting(*arguments: Any) -> Any:
        nonlocal now
        now += 100
        return load_guide(*arguments)

    def learning(*arguments: Any) -> Any:
        used.append(arguments[-2:])
        return learn(*arguments)

    monkeypatch.setattr(row_models, "load_efficientnet", lambda _weights: EfficientNetLite0())
    train(data, tmp_path, row="teacher", samples=2, batch=2, validations=1)
    monkeypatch.setattr(row_training, "time", SimpleNamespace(monotonic=lambda: now, sleep=lambda _: None))
    monkeypatch.setattr(row_training, "load_guide", waiting)
    monkeypatch.setattr(row_training, "learn", learning)
    train(data, tmp_path, row="ship-edge", seconds=400)
    assert used == [(400, 100)]


def test_a_run_that_is_limited_by_time_is_validated_at_even_distances(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(0, 1000)  # seconds; against them the real ones of the preparation do not matter
    monkeypatch.setattr(fit, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    done = train(data, tmp_path, samples=10**9, seconds=20_000, validations=4)
    assert [row[0] // 2 for row in done["curve"]] == pytest.approx([5, 10, 15, 20], abs=1)


def test_the_first_part_of_a_guided_batch_is_blended_and_has_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_data, "recoloured", lambda _generator, pixels: pixels)
    recipe = Recipe(batch=8, synthetic=0)
    seen: list[torch.Tensor] = []

    class Guide(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(pixels)
            return torch.zeros(len(pixels), 3, 4, 4)

    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    images[1] = 200
    labels = (images[:, 0] > 0).long()
    asked: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        asked.append(labels)
        return logits.sum() * 0

    splits = {"train": SimpleNamespace(classes=range(3)), "val": SimpleNamespace(ignore_index=255)}
    goal = SimpleNamespace(**splits, loss=loss)
    labelled = Labelled("seg", cast(Any, goal), (16, 16), Split(images, labels), {}, None)
    model = torch.nn.Conv2d(3, 3, 1, stride=4)
    learner = DeviceLearner(model, labelled, recipe, torch.device("cpu"), guide=Guide(), blended=0.5)
    for step in range(8):
        learner.losses(step, np.random.default_rng(step))
    blended, whole = torch.cat([batch[:4] for batch in seen]), torch.cat([batch[4:] for batch in seen])
    assert all((labels[:4] == 255).all() and (labels[4:] != 255).all() for labels in asked)
    assert set(whole.round().unique().tolist()) == {0, 200}
    assert len(blended.round().unique()) > 10


def test_the_documented_command_has_the_command_s_options() -> None:
    page = (Path(__file__).parents[2] / "docs/pretraining.md").read_text(encoding="utf-8")
    command = re.search(r"python -m research\.rows ((?:.*\\\n)*.*)", page)
    assert command is not None
    options = re.findall(r"--([a-z-]+)", command[1])
    assert {"task", "seconds", "batch", "backbone-lr"} <= set(options)
    assert {option.replace("-", "_") for option in options} <= set(inspect.signature(main).parameters)


def test_figures_on_a_device_are_those_of_the_evaluation() -> None:
    """Class maps are enlarged to their labels' size as the runtime enlarges them: by the nearest centres."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 12, 16, generator=generator)
    labels = torch.randint(0, 5, (3, 15, 22), generator=generator).to(torch.uint8)
    held = {"val": Split(torch.zeros(3, 3, 12, 16, dtype=torch.uint8), labels)}
    goal: Any = SimpleNamespace(train=SimpleNamespace(classes=range(5)), val=SimpleNamespace(ignore_index=255))
    data = Labelled("seg", goal, (12, 16), held["val"], held, None)
    found = figures_on(Given(logits), data, "val", torch.device("cpu"))
    maps = logits.argmax(1).numpy().astype(np.uint8)
    counts = np.zeros((5, 5), int)
    for answer, label in zip(maps, labels.numpy(), strict=True):
        np.add.at(counts, (label, restore(answer, label.shape, Resize())), 1)
    right = np.diag(counts)
    assert found.score == pytest.approx(np.mean(right / (counts.sum(0) + counts.sum(1) - right)))


class Given(nn.Module):
    """Answers with these logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits[: len(pixels)]
