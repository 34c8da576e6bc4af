"""A training step that several processes share: each computes a part of the batch, and gradients are averaged.

Losses here depend on the batch as a whole (overlap losses, BatchNorm, weighted means), so averaging the losses of parts
would train another model. Instead the features of all parts are brought together, and every process computes the head
and the loss of the whole batch: the gradient is that of a single process, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.team import Team
from aselect_runtime.errors import InputError

BUCKET = 8_000_000
"""Elements of gradients that are summed at a time."""


def check_shared(step: int, team: Team, workdir: Path) -> None:
    """Raise InputError, in all processes, unless all of them resume from the same step."""
    others = team.told(team.collected(step))
    if any(other != step for other in others):
        raise InputError(
            f"{workdir}: got checkpoints at the steps {', '.join(map(str, others))} in {team.size} processes, expected "
            "the same; choose a folder that all processes share",
            parameter="out",
        )


def whole_rows(team: Team, mine: Tensor, count: int) -> Tensor:
    """Rows (count, …) of all processes from this one's share (`team.share` of them), differentiable.

    The gradient of this process's rows is multiplied by the number of processes, because `average_gradients` divides by
    it. Every process must compute the same loss from the rows.
    """
    return mine if team.size == 1 else _WholeRows.apply(mine, team, count)  # type: ignore[no-untyped-call]


class _WholeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, team: Team, count: int) -> Tensor:
        ctx.team, ctx.rows = team, slice(*_ends(team, count))
        rows = mine.new_zeros(count, *mine.shape[1:])
        rows[ctx.rows] = mine
        return team.sum(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.rows] * ctx.team.size, None, None


def part_of(team: Team, rows: Tensor) -> Tensor:
    """This process's share of rows (N, …)."""
    return rows[slice(*_ends(team, len(rows)))]


def average_gradients(team: Team, parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; one that no process has stays None."""
    if team.size == 1:
        return
    held = torch.tensor([float(each.grad is not None) for each in parameters])
    used = [each for each, count in zip(parameters, team.sum(held).tolist(), strict=True) if count]
    for bucket in _buckets(used):
        parts = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
        total = team.sum(torch.cat([part.flatten() for part in parts])) / team.size
        for parameter, part in zip(bucket, total.split([each.numel() for each in bucket]), strict=True):
            parameter.grad = part.view_as(parameter).clone()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and (parameter.dtype, parameter.device) != (bucket[0].dtype, bucket[0].device):
            yield bucket
            bucket = []
        bucket.append(parameter)
        if sum(each.numel() for each in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _ends(team: Team, count: int) -> tuple[int, int]:
    part = team.share(range(count))
    assert isinstance(part, range)
    return part.start, part.stop
