"""The loop that everything here is trained with: its budget, its rates, and going on where another call stopped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from aselect_edge.training.fit import cosine, fit

TARGET = torch.tensor([1.0, -2.0])


def _problem() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.zeros(2))
    return weight, torch.optim.SGD([{"params": [weight], "lr": 0.1}])


def _loss(weight: nn.Parameter, seen: list[int]) -> Tensor:
    seen.append(len(seen))
    return (weight - TARGET).square().sum()


def test_it_steps_as_often_as_asked_and_says_how_far_it_is() -> None:
    weight, optimiser = _problem()
    spent: list[tuple[int, float]] = []
    fit(
        optimiser, lambda _: (weight - TARGET).square().sum(), 40, after=lambda step, share: spent.append((step, share))
    )
    assert spent == [(step, step / 40) for step in range(1, 41)]
    assert torch.allclose(weight.detach(), TARGET, atol=1e-2)


def test_two_calls_do_what_one_does() -> None:
    whole, optimiser = _problem()
    fit(optimiser, lambda _: _loss(whole, []), 10, rate=cosine)
    half, optimiser = _problem()
    halfway = {"at": 0}
    fit(
        optimiser,
        lambda _: _loss(half, []),
        10,
        rate=cosine,
        after=lambda step, _: halfway.update(at=step),
        stop=lambda: halfway["at"] == 5,
    )
    assert halfway["at"] == 5
    assert not torch.equal(half, whole)
    fit(optimiser, lambda _: _loss(half, []), 10, rate=cosine, done=5)
    assert torch.equal(half, whole)


@pytest.mark.parametrize("done", [3, 4])
def test_nothing_is_done_where_the_budget_is_spent(done: int) -> None:
    weight, optimiser = _problem()
    fit(optimiser, lambda _: _loss(weight, []), 3, done=done)
    assert not weight.any()


def test_seconds_end_it_before_the_steps_do() -> None:
    weight, optimiser = _problem()
    shares: list[float] = []
    of_time = lambda _, elapsed: elapsed / 1e-9  # noqa: E731
    fit(optimiser, lambda _: _loss(weight, []), of_time, after=lambda _, share: shares.append(share))
    assert len(shares) == 1
    assert shares[0] >= 1


def test_gradients_are_clipped_together() -> None:
    weight, optimiser = _problem()
    fit(optimiser, lambda _: 1e6 * _loss(weight, []), 1, clip=1.0)
    assert math.isclose(weight.detach().norm().item(), 0.1, rel_tol=1e-3)
