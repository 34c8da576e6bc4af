"""Training: a task model on the selected taps of a DiT, the backbone frozen or fine-tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aselect_runtime.lazy import attributes

if TYPE_CHECKING:
    from aselect_edge.training.finetune import Unfreeze
    from aselect_edge.training.recipe import RECIPES, CleanRecipe, Outcome, Recipe
    from aselect_edge.training.request import TrainRequest
    from aselect_edge.training.run import train_bundle

__all__ = ["RECIPES", "CleanRecipe", "Outcome", "Recipe", "TrainRequest", "Unfreeze", "train_bundle"]

_HOMES = {
    "RECIPES": "recipe",
    "CleanRecipe": "recipe",
    "Outcome": "recipe",
    "Recipe": "recipe",
    "TrainRequest": "request",
    "Unfreeze": "finetune",
    "train_bundle": "run",
}

__getattr__ = attributes(__name__, _HOMES)
