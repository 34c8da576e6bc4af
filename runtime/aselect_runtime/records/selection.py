"""The record `selection.json`: the result of a selection."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from aselect_runtime.errors import InputError
from aselect_runtime.records.base import Finite, Frozen, Record, Sha256
from aselect_runtime.records.data import DataFingerprint
from aselect_runtime.records.massive import Massive
from aselect_runtime.records.noise import LevelWeight, Noise
from aselect_runtime.records.tap import Tap


class Score(Frozen):
    """The score of one candidate of a selection; higher is better."""

    noise: Noise
    tap: Tap
    value: Finite


class Cost(Frozen):
    """Cost of a selection: forward passes (one image at one noise level counts as one) and seconds of the search."""

    forward_passes: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Selection(Record):
    """The noise level and tap that a strategy chose, with all scores (`selection.json`)."""

    kind: ClassVar[str] = "selection"
    version: ClassVar[tuple[int, int]] = (1, 3)

    backbone: str
    backbone_sha256: Sha256 | None = None
    """Of the backbone up to the tap's block, with its autoencoder; None in selections before 1.2."""
    noise: Noise
    tap: Tap
    strategy: str
    scores: tuple[Score, ...] = ()
    data: DataFingerprint | None = None
    seed: int = 0
    label: Annotated[int, Field(ge=0)] | None = None
    """The class that the backbone was conditioned on; None for none."""
    note: str = ""
    distribution: tuple[LevelWeight, ...] = ()
    """The distribution over noise levels that `learned` found; `noise` is then its mode."""
    mixture: tuple[LevelWeight, ...] = ()
    """The noise levels that a `gate` mixes; such a selection cannot be deployed."""
    cost: Cost | None = None
    parameters: dict[str, bool | int | Finite | str] = Field(default_factory=dict)
    """The strategy's parameters by name."""
    massive: tuple[Massive, ...] = ()
    """The scanned taps with massive channels; none without images, and in selections before 1.3."""

    def check_deployable(self) -> None:
        """Raise InputError for a mixture of noise levels: a deployed model has one."""
        if len(self.mixture) > 1:
            raise InputError(
                f"got a selection that mixes {len(self.mixture)} noise levels ({self.strategy}), expected one noise "
                "level to train and export; select again with another strategy",
                parameter="selection",
            )
