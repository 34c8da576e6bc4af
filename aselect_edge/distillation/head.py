"""The head on a stem's features, trained on labels for a part of the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aselect_edge.bundle import DistilledTapModel, TapModel
from aselect_edge.distillation.learner import StemLearner
from aselect_edge.training.answers import evaluate
from aselect_edge.training.goal import open_goal
from aselect_edge.training.loop import train_model
from aselect_edge.training.recipe import RECIPES, Recipe
from aselect_runtime.progress import Progress
from aselect_runtime.records import Bundle

SHARE = 4
"""One sample for so many of the stem's."""


def train_head(
    full: TapModel,
    learner: StemLearner,
    record: Bundle,
    data: Path,
    recipe: Recipe,
    workdir: Path,
    progress: Progress,
) -> None:
    """Train the learner's head on the labels of `data`; it keeps its weights where that makes it no better on val.

    The head of `full` is not the same any more after that.
    """
    stem, head = learner.parts()
    own = RECIPES[record.task]
    samples = max(1, recipe.samples // SHARE)
    brief = replace(own, samples=samples, batch=min(own.batch, samples), seed=recipe.seed, synthetic=0.0)
    goal = open_goal(record.task, data, brief)
    full.head.load_state_dict(head.state_dict())
    full.head.requires_grad_(True)
    model = DistilledTapModel(full, stem.cpu())
    before = evaluate(model.deployed(), goal.val, record.imgsz, record.resize)
    outcome = train_model(model, goal, record.resize, brief, workdir, progress=progress, device=learner.device)
    if outcome.figures.score > before.score:
        head.load_state_dict(outcome.model.head.state_dict())
    stem.to(learner.device)
