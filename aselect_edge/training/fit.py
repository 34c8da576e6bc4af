"""The gradient descent loop for heads, backbones and the models that selection trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from aselect_edge.team import ALONE, Team
from aselect_edge.training.sharing import average_gradients

Rate = Callable[[int, float], float]
"""(steps done, share of the budget spent) -> factor on each group's base learning rate."""


Budget = Callable[[int, float], float]
"""(steps done, seconds of this call) -> share of the budget spent."""


def cosine(_step: int, spent: float) -> float:
    """Cosine decay from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * spent))


def fit(
    optimiser: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
    budget: int | Budget,
    *,
    rate: Rate = lambda _step, _spent: 1.0,
    done: int = 0,
    clip: float | None = None,
    after: Callable[[int, float], None] = lambda _step, _spent: None,
    stop: Callable[[], bool] = lambda: False,
    team: Team = ALONE,
) -> None:
    """Step until the budget is spent or `stop` is true.

    An integer budget is a number of steps; `done` of them were made before this call.

    `loss` returns the scalar to minimise at a step, counted from 0. `after` gets the steps done and the share of the
    budget spent, which is 1 or more at the last step. `clip` bounds the norm of all gradients together. A group's base
    learning rate is its `base`, saved with the optimiser's state; without it, the group's initial learning rate.

    The processes of a `team` call this together: gradients are averaged over them, and the first one's clock counts.
    """
    for group in optimiser.param_groups:
        group.setdefault("base", group["lr"])
    share: Budget = budget if callable(budget) else lambda step, _elapsed: step / budget
    began, spent = time.monotonic(), share(done, 0.0)
    while spent < 1 and not team.agree(stop()):
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * rate(done, spent)
        _descend(optimiser, loss(done), clip, team)
        done += 1
        spent = team.agree(share(done, time.monotonic() - began))
        after(done, spent)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, clip: float | None, team: Team) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    average_gradients(team, parameters)
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
