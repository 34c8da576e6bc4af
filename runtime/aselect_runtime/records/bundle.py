"""The record `bundle.json`: a trained model."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from aselect_runtime.records.backbone import BackboneSource
from aselect_runtime.records.base import Finite, Record, Sha256
from aselect_runtime.records.classes import Classes, Task, check_count
from aselect_runtime.records.clean import Clean
from aselect_runtime.records.distilled import Distilled
from aselect_runtime.records.head import HeadSpec
from aselect_runtime.records.massive import Channel
from aselect_runtime.records.noise import Noise
from aselect_runtime.records.resize import Resize
from aselect_runtime.records.tap import Tap
from aselect_runtime.records.tensors import Size

MOST_DRAWS = 64
"""Draws of the noise that a model may average over; each is a forward pass of every frame."""


class Bundle(Record):
    """A trained model before export (`bundle.json` of a bundle folder)."""

    kind: ClassVar[str] = "bundle"
    version: ClassVar[tuple[int, int]] = (1, 5)

    task: Task
    classes: Classes
    imgsz: Size
    resize: Resize
    backbone: BackboneSource
    taps: Annotated[tuple[Tap, ...], Field(min_length=1, max_length=8)]
    noise: Noise
    noise_seed: int | None = 0
    noise_draws: Annotated[int, Field(ge=1, le=MOST_DRAWS)] = 1
    """Number of noise draws over which features are averaged; each costs one forward pass."""
    discarded: tuple[tuple[Channel, ...], ...] = ()
    """The channels of each tap that are set to zero before the head; () where none are, and in bundles before 1.4."""
    head: HeadSpec
    finetuned: bool = False
    distilled: Distilled | None = None
    """A cheaper encoder, which export can deploy in place of the full one; None in bundles before 1.4."""
    clean: Clean | None = None
    """Says that the backbone was trained to need no noise; None for others, and in bundles before 1.5."""
    metrics: dict[str, Finite] = Field(default_factory=dict)
    files: dict[str, Sha256] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _classes_fit_the_task(self) -> Bundle:
        check_count(self.task, self.classes)
        return self

    @model_validator(mode="after")
    def _clean_is_without_noise(self) -> Bundle:
        if self.clean is not None and (self.noise.sigma or self.noise.alpha != 1 or self.noise_draws != 1):
            raise ValueError("got noise in a bundle of a clean backbone, expected alpha 1, sigma 0 and one draw")
        return self

    @model_validator(mode="after")
    def _discards_of_each_tap(self) -> Bundle:
        if self.discarded and len(self.discarded) != len(self.taps):
            raise ValueError(f"got discarded channels of {len(self.discarded)} taps, expected of all {len(self.taps)}")
        return self
