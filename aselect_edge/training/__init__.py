"""Training: a task model on the selected taps of a DiT, the backbone frozen or fine-tuned."""

from __future__ import annotations

from aselect_edge.training.recipe import Outcome, Recipe
from aselect_edge.training.run import train_bundle

__all__ = ["Outcome", "Recipe", "train_bundle"]
