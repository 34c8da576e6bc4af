"""What a training run is asked for, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aselect_edge.bundle.model import TapModel
from aselect_edge.evaluation.metrics import Figures
from aselect_runtime.records import HeadSpec, Task

Overlap = Literal["dice", "lovasz"]


@dataclass(frozen=True)
class Recipe:
    """Budget and optimiser; `samples` counts frames seen."""

    samples: int = 16_000
    batch: int = 8
    learning_rate: float = 2e-3
    backbone_rate: float = 5e-4
    weight_decay: float = 0.03
    warmup: int = 100
    """Steps until the full learning rate, at most a tenth of all."""
    ema: float = 0.998
    overlap: Overlap = "dice"
    """Segmentation: the loss of each class's overlap beside the cross-entropy."""
    overlap_weight: float = 0.5
    label_smoothing: float = 0.1
    """Classification: the share of each label that is spread over all classes."""
    denoising: float = 0.2
    """Weight of the generative loss when fine-tuning; 0 leaves it out."""
    denoising_windows: int = 8
    denoising_every: int = 4
    """Steps from one generative step to the next."""
    window: int = 64
    synthetic: float = 0.1
    """Share of synthetic streets in a batch; only where the classes are CamVid's."""
    views: int = 8
    """Augmented views per frame whose frozen features are computed once."""
    cache_bytes: int = 4_000_000_000
    """Most that the features of all views may take on disk."""
    validations: int = 10
    patience: int = 0
    """Validations without a better figure after which training ends; 0 never."""
    seed: int = 0

    def average_decay(self, steps: int) -> float:
        """Decay of the weights' moving average in a run of so many steps: `ema`, but over a tenth of the run at most.

        An average over 1 / (1 - 0.998) = 500 steps would still hold the first ones at the end of a run of 250.
        """
        return min(self.ema, 1 - 1 / max(2.0, 0.1 * steps))


RECIPES: dict[Task, Recipe] = {"seg": Recipe(), "cls": Recipe(samples=64_000, batch=32, learning_rate=1e-3)}
"""Where `aselect-train` starts from."""
HEADS: dict[Task, HeadSpec] = {
    "seg": HeadSpec(kind="conv", channels=128),
    "cls": HeadSpec(kind="attention", channels=128),
}
"""The head that `aselect-train` trains if none is asked for."""


@dataclass(frozen=True)
class Outcome:
    """The model with its best weights on val, what they reach there, and the learning curve."""

    model: TapModel
    figures: Figures
    curve: tuple[tuple[int, float, float, float], ...]
    """(samples seen, mean training loss since the row before, figure on val, loss on val)."""
