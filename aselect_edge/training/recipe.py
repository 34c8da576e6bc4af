"""The settings of a training run, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aselect_edge.bundle.model import TapModel
from aselect_edge.evaluation.metrics import Figures
from aselect_runtime.records import CleanLevels, HeadSpec, Task

Overlap = Literal["dice", "lovasz"]


@dataclass(frozen=True)
class Recipe:
    """Budget and optimiser; `samples` is the number of frames seen."""

    samples: int = 16_000
    batch: int = 8
    learning_rate: float = 2e-3
    backbone_rate: float = 5e-4
    weight_decay: float = 0.03
    warmup: int = 100
    """Warm-up steps, at most a tenth of all steps."""
    ema: float = 0.998
    overlap: Overlap = "dice"
    """Segmentation: the overlap loss that is added to the cross-entropy."""
    overlap_weight: float = 0.5
    label_smoothing: float = 0.1
    """Classification: label smoothing, the share of each label that is spread over all classes."""
    denoising: float = 0.2
    """Weight of the denoising loss in fine-tuning; 0 disables it."""
    denoising_windows: int = 8
    denoising_every: int = 4
    """Steps from one denoising step to the next."""
    window: int = 64
    synthetic: float = 0.1
    """Share of synthetic street frames in a batch; used only if the classes are CamVid's."""
    views: int = 8
    """Augmented views per frame whose frozen features are computed once."""
    cache_bytes: int = 4_000_000_000
    """Maximum bytes on disk for the features of all views."""
    validations: int = 10
    patience: int = 0
    """Training ends after this many validations without a better figure; 0 never."""
    seed: int = 0

    def average_decay(self, steps: int) -> float:
        """Decay of the weights' moving average in a run of `steps` steps: `ema`, but over at most a tenth of the run.

        An average over 1 / (1 - 0.998) = 500 steps would still hold the first ones at the end of a run of 250.
        """
        return min(self.ema, 1 - 1 / max(2.0, 0.1 * steps))


@dataclass(frozen=True)
class CleanRecipe:
    """How a backbone learns to need no noise: budget and learning rates."""

    samples: int = 4_000
    batch: int = 8
    rate: float = 1e-5
    """Learning rate of the backbone, CleanDIFT's."""
    adapter_rate: float = 1e-3
    levels: CleanLevels = "selected"
    synthetic: float = 0.1
    """As in `Recipe`."""
    seed: int = 0


RECIPES: dict[Task, Recipe] = {"seg": Recipe(), "cls": Recipe(samples=64_000, batch=32, learning_rate=1e-3)}
"""The default recipe of each task in `aselect-train`."""
HEADS: dict[Task, HeadSpec] = {
    "seg": HeadSpec(kind="conv", channels=128),
    "cls": HeadSpec(kind="attention", channels=128),
}
"""The default head of each task in `aselect-train`."""


@dataclass(frozen=True)
class Outcome:
    """The model with its best weights on val, its figures there, and the learning curve."""

    model: TapModel
    figures: Figures
    curve: tuple[tuple[int, float, float, float], ...]
    """(samples seen, mean training loss since the row before, figure on val, loss on val)."""
    reference: Figures | None = None
    """Of a small ImageNet encoder with a linear head, where its weights are installed; see `comparison`."""
