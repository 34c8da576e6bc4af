"""What a training run is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aselect_edge.perception import Perception

TellProgress = Callable[[str, float], None]
"""Told what is being done and the share that is done, 0 to 1."""


@dataclass(frozen=True)
class Recipe:
    """Budget and optimiser; `samples` counts frames seen."""

    samples: int = 16_000
    batch: int = 8
    learning_rate: float = 2e-3
    backbone_rate: float = 5e-4
    weight_decay: float = 0.03
    warmup: int = 100
    ema: float = 0.998
    dice: float = 0.5
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
    validations: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The model with its best weights on val, and the learning curve."""

    model: Perception
    val_miou: float
    curve: tuple[tuple[int, float, float], ...]
    """(samples seen, mean training loss, val mIoU)."""
