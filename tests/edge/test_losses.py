"""The losses of training: what they count, and where their gradients lead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge.training import Recipe
from aselect_edge.training.loss import dice_loss, lovasz_loss, rare_weights
from aselect_edge.training.segmenting import segmentation_loss

RECIPE = Recipe()


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
    loss = segmentation_loss(logits, masked, weights, 255, RECIPE)
    scrambled = logits.where(~hidden[:, None], 100 * torch.randn(2, classes, 4, 6))
    assert torch.isfinite(loss)
    torch.testing.assert_close(segmentation_loss(scrambled, masked, weights, 255, RECIPE), loss)
    torch.testing.assert_close(
        segmentation_loss(logits, masked, weights, 255, replace(RECIPE, overlap_weight=0)),
        F.cross_entropy(logits, masked, weights, ignore_index=255),
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), classes=st.integers(1, 4), ignored=st.floats(0, 0.9))
def test_the_dice_loss_counts_each_class_by_itself(seed: int, classes: int, ignored: float) -> None:
    """Milletari et al., arXiv 1606.04797, with 1 added above and below, over the classes of the known labels."""
    torch.manual_seed(seed)
    said, labels = torch.randn(2, classes, 4, 5).softmax(1), torch.randint(0, classes, (2, 4, 5))
    labels = labels.where(torch.rand(2, 4, 5) >= ignored, 255)
    known = labels != 255
    if not known.any():
        return
    each = []
    for c in labels[known].unique():
        p, y = said[:, c][known], labels[known] == c
        each.append(1 - (2 * p[y].sum() + 1) / (p.sum() + y.sum() + 1))
    torch.testing.assert_close(dice_loss(said, labels, 255), torch.stack(each).mean())


def test_the_dice_loss_of_millions_of_pixels_keeps_its_digits() -> None:
    """One float32 for each class would not hold the sum: the loss of a constant map is known exactly."""
    labels, right = torch.zeros(2, 1024, 2048, dtype=torch.long), 0.9
    said = torch.stack([torch.full(labels.shape, right), torch.full(labels.shape, 1 - right)], dim=1)
    count = labels.numel()
    exact = 1 - (2 * right * count + 1) / (right * count + count + 1)
    assert dice_loss(said, labels, 255).item() == pytest.approx(exact, abs=1e-6)


def test_the_loss_of_a_perfect_answer_is_the_least() -> None:
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    perfect = 50.0 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    weights = torch.ones(3)
    assert segmentation_loss(perfect, labels, weights, 255, RECIPE) < 0.02
    assert segmentation_loss(-perfect, labels, weights, 255, RECIPE) > 10


def test_a_batch_without_any_label_teaches_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 4, 4), 255), torch.ones(3), 255, RECIPE)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_rare_classes_weigh_more() -> None:
    weights = rare_weights(torch.tensor([900, 90, 9, 1, 0]))
    assert (weights.diff() >= 0).all()
    assert weights[0] < weights[1] < weights[2]
    assert weights.max() <= 5
    torch.testing.assert_close(rare_weights(torch.tensor([7, 7, 7])), torch.ones(3))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), classes=st.integers(1, 4))
def test_the_lovasz_loss_of_a_decision_is_the_jaccard_loss(seed: int, classes: int) -> None:
    """At the corners of the cube the extension is the set function itself (arXiv 1705.08790, section 2)."""
    torch.manual_seed(seed)
    labels, said = torch.randint(0, classes, (2, 2, 4, 5))
    hidden = torch.rand(2, 4, 5) < 0.2
    if hidden.all():
        return
    loss = lovasz_loss(F.one_hot(said, classes).permute(0, 3, 1, 2).float(), labels.where(~hidden, 255), 255)
    y, p = labels[~hidden], said[~hidden]
    jaccard = [1 - ((y == c) & (p == c)).sum() / ((y == c) | (p == c)).sum() for c in y.unique()]
    torch.testing.assert_close(loss, torch.stack(jaccard).mean())


@pytest.mark.parametrize("overlap", [dice_loss, lovasz_loss])
def test_overlap_losses_lead_to_the_labels(overlap: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (1, 6, 6))
    logits = torch.zeros(1, 3, 6, 6, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = overlap(logits.softmax(1), labels, 255)
        loss.backward()
        optimiser.step()
    assert (logits.argmax(1) == labels).float().mean() > 0.95
