"""A linear head starts where ridge regression ends, and training never gives less than that on val."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import Head, build_head
from aselect_edge.training import Recipe
from aselect_edge.training.closed_form import Moments, _tokens, is_linear, moments, set_linear
from aselect_edge.training.goal import open_goal
from aselect_edge.training.loop import train_model
from aselect_runtime.records import HeadSpec, Noise, Resize, Tap

LINEAR = HeadSpec(kind="linear", channels=1)


def test_the_solution_is_the_ridge_regression_on_standardised_features() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)) * [1, 3, 0.1, 10, 1] + [0, 5, 0, -20, 1]
    y = rng.integers(0, 3, 60)
    one_hot = np.eye(3)[y]
    z = (x - x.mean(0)) / x.std(0)
    damping = 0.03
    slope = np.linalg.solve(z.T @ z + damping * 60 * np.eye(5), z.T @ (one_hot - one_hot.mean(0)))
    expected = z @ slope + one_hot.mean(0)

    rows = torch.tensor(np.c_[x, np.ones(60)])
    weight, bias = Moments(rows.T @ rows, rows.T @ torch.tensor(one_hot)).solve(damping)
    found = x @ weight.numpy().T.astype(float) + bias.numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("task", ["seg", "cls"])
def test_separable_features_are_separated(task: str) -> None:
    torch.manual_seed(0)
    head = build_head(LINEAR, task, [6, 4], 3)  # type: ignore[arg-type]
    assert is_linear(head)
    labels = torch.arange(12) % 3
    maps = torch.randn(12, 4, 6, 10) * 0.1
    if task == "seg":
        labels = torch.randint(0, 3, (12, 4, 6), generator=torch.Generator().manual_seed(1))
        maps[..., 6:9] += torch.nn.functional.one_hot(labels, 3)
        labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        labels[:, :8, :8] = 255
    else:
        maps[..., 6:9] += torch.nn.functional.one_hot(labels, 3)[:, None, None]
    taps = (maps[..., :6], maps[..., 6:])
    batches = [(tuple(tap[part] for tap in taps), labels[part]) for part in (slice(0, 7), slice(7, 12))]
    set_linear(head, *moments(head, batches, 3, 255, 12).solve(1e-3))
    logits = head(taps)
    answer = logits.argmax(1)
    if task == "seg":
        answer = answer.repeat_interleave(8, 1).repeat_interleave(8, 2)
        known = labels != 255
        assert torch.equal(answer[known], labels[known])
    else:
        assert torch.equal(answer, labels)


def test_the_tokens_of_a_large_set_are_of_all_rows_and_columns() -> None:
    """Here 8 of 432 for each view: at even distances these were of one column, the images' left border."""
    places = torch.stack(torch.meshgrid(torch.arange(18.0), torch.arange(24.0), indexing="ij"))[None]
    labels = torch.arange(18 * 24).view(1, 18, 24) % 7
    rows, classes = _tokens(places, labels, 255, 8)
    assert len(rows) == 8
    assert len(rows[:, 0].unique()) > 4
    assert len(rows[:, 1].unique()) > 4
    assert torch.equal(classes, (24 * rows[:, 0] + rows[:, 1]).long() % 7)
    assert len(_tokens(places, labels, 255, 1000)[0]) == 18 * 24


def test_training_gives_at_least_what_ridge_regression_gives(
    backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    recipe = Recipe(samples=16, batch=4, views=2, validations=2, synthetic=0)
    backbone = load_backbone(str(backbone_folder))
    noise, tap = Noise(alpha=0.99, sigma=0.14, model_timestep=50), Tap(block=1, component="query")
    figures = {}
    for name, rate in (("ridge", 0.0), ("trained", 0.3), ("fresh", 0.3)):
        torch.manual_seed(0)
        model = TapModel(backbone.model, build_head(LINEAR, "seg", [32], 11), noise, [tap], (24, 32), 0)
        goal = open_goal("seg", street_data, recipe)
        outcome = train_model(model, goal, Resize(), replace(recipe, learning_rate=rate), tmp_path / name)
        figures[name] = outcome.figures.score
        assert isinstance(outcome.model.head, Head)
    assert figures["trained"] >= figures["ridge"] - 1e-6  # a rate far too high spoils what follows, not the start
    assert figures["ridge"] > 0.08
