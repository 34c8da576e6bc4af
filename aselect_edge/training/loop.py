"""Train a model or its head by `fit`, with averaged weights, validation and checkpoints; the same for both tasks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aselect_edge.backbones.device import CPU
from aselect_edge.bundle.model import TapModel
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.team import ALONE, Team
from aselect_edge.training.checkpoint import RunState
from aselect_edge.training.finetune import Noising, Unfreeze, merge
from aselect_edge.training.fit import fit
from aselect_edge.training.goal import Goal
from aselect_edge.training.identity import Digests, run_identity
from aselect_edge.training.learners import HeadLearner, Learner, Measured, ModelLearner
from aselect_edge.training.recipe import Outcome, Recipe
from aselect_edge.training.sharing import check_shared
from aselect_runtime.errors import InputError
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Resize

log = logging.getLogger(__name__)


def train_model(
    model: TapModel,
    goal: Goal,
    how: Resize,
    recipe: Recipe,
    workdir: Path,
    *,
    cache: Path | None = None,
    unfreeze: Unfreeze | None = None,
    noising: Noising | None = None,
    progress: Progress = silent,
    device: torch.device = CPU,
    schedule: Mapping[str, Any] | None = None,
    team: Team = ALONE,
) -> Outcome:
    """Train `model` in place and return it, on the CPU, with its best averaged weights on val.

    Without `unfreeze` only the head is trained, on features stored in `cache` (None: in `workdir`). With it, that part
    of the backbone is trained too, with the denoising loss if there is a `noising` on `device`, made from `schedule`. A
    checkpoint in `workdir` resumes an interrupted run of the same recipe, whichever device that ran on.

    The processes of a `team` call this together, with a `workdir` that they share and that the first one writes; all
    return the same outcome, that of a single process up to rounding.
    """
    if team.size > recipe.batch:
        raise InputError(
            f"got {team.size} processes for a batch of {recipe.batch}, expected at most one for each of its frames; "
            "start fewer processes or use a larger batch",
            parameter="batch",
        )
    digests = Digests.of(model, goal.train, goal.val)
    identity = run_identity(model, digests, how, recipe, unfreeze, schedule)
    torch.manual_seed(recipe.seed)
    learner: Learner[Figures]
    if unfreeze is None:
        learner = HeadLearner(
            model,
            goal,
            how,
            recipe,
            digests,
            folder=cache or workdir / "features",
            progress=progress,
            device=device,
            team=team,
        )
    else:
        learner = ModelLearner(model, goal, how, recipe, what=unfreeze, noising=noising, device=device, team=team)
    state = learn(learner, recipe, identity, workdir, progress, team=team)
    learner.module.load_state_dict(state.best_weights)
    merge(model)
    figures = learner.validate(learner.module)
    return Outcome(model.cpu().eval(), figures, tuple(state.curve))


def learn(
    learner: Learner[Measured],
    recipe: Recipe,
    identity: str,
    workdir: Path,
    progress: Progress,
    seconds: float = math.inf,
    before: float = 0.0,
    team: Team = ALONE,
) -> RunState:
    """Step until the budget is spent or val no longer improves; raises InputError if the loss diverges.

    The budget is the recipe's samples, or `seconds` if they end first, of which earlier calls have used `before`: the
    learning rate follows the larger spent share, so that a run limited by time completes its schedule and ends with a
    validated average.
    """
    optimiser = torch.optim.AdamW(learner.groups, weight_decay=recipe.weight_decay)
    steps = max(1, recipe.samples // recipe.batch)
    average = AveragedModel(learner.module, multi_avg_fn=_warm_average(recipe.average_decay(steps)), use_buffers=True)
    state = RunState.resume(workdir, identity, learner.module, average, optimiser)
    check_shared(state.step, team, workdir)
    if 0 < state.step < steps:
        log.info("%s: resuming after %d of %d steps", workdir, state.step, steps)
    looks, warmup = min(recipe.validations, steps), min(recipe.warmup, max(1, steps // 10))
    task, looked = math.nan, _looks(max(state.step / steps, before / seconds), looks)

    def loss(step: int) -> Tensor:
        nonlocal task
        rng = np.random.default_rng((recipe.seed, 2, step))
        torch.manual_seed(int(rng.integers(2**62)))  # dropout also continues as if there had been no interruption
        joint, task = learner.losses(step, rng)
        _check_finite(joint, step * recipe.batch, workdir)
        return joint

    def after(_step: int, spent: float) -> None:
        nonlocal looked
        average.update_parameters(learner.module)
        state.stepped(task)
        best = f", best on val {state.best:.3f}" if state.curve else ""
        progress(f"training, loss {task:.3f}{best}", min(spent, 1.0))
        # At even distances, so that no row of the curve is a mean over a few steps only.
        look = _looks(spent, looks) > looked or spent >= 1
        if look:
            looked = _looks(spent, looks)
            state.validated(learner.validate(average.module), recipe.batch, average.module.state_dict())
        if team.leads and (look or state.due()):
            state.save(workdir, identity, learner.module, average, optimiser)

    if state.step == 0 and (least := learner.start()) is not None:
        state.losses.append(least)
        state.validated(learner.validate(learner.module), recipe.batch, learner.module.state_dict())
    team.equalise(learner.module)
    learner.module.train()
    fit(
        optimiser,
        loss,
        lambda step, elapsed: max(step / steps, (before + elapsed) / seconds),
        rate=lambda step, spent: _rate(step, spent, warmup),
        done=state.step,
        clip=1.0,
        after=after,
        stop=lambda: bool(recipe.patience) and state.stale >= recipe.patience,
        team=team,
    )
    return state


def _looks(spent: float, looks: int) -> int:
    """How many of `looks` validations are due when the share `spent` of the budget is used."""
    return math.floor(spent * looks + 1e-9)  # step / steps is rounded


def _check_finite(loss: Tensor, seen: int, workdir: Path) -> None:
    if math.isfinite(loss.item()):
        return
    if not seen:  # no learning rate has had an effect
        raise InputError(
            f"{workdir}: got a loss of {loss.item()} before the first step, expected a finite one; check the weights "
            "of the backbone, or use another"
        )
    raise InputError(
        f"{workdir}: got a loss of {loss.item()} after {seen} samples, expected a finite one; lower the learning "
        "rate, and if the backbone is trained, its learning rate too",
        parameter=("lr", "backbone_lr"),
    )


def _warm_average(decay: float) -> Any:
    """An exponential average with a smaller decay in the first steps, so that short runs do not keep them."""

    def update(average: Any, current: Any, updates: Any) -> None:
        count = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(average, current, updates)

    return update


def _rate(step: int, spent: float, warmup: int) -> float:
    """Factor on the base learning rate: linear warm-up over `warmup` steps, then a cosine to 1 %."""
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(spent, 1.0))))
