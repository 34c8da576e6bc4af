"""JiT, "just image transformers" (arXiv 2511.13720): a DiT on pixels in large patches that predicts the clean image.

Straight path, fed t, 1 for a clean image: x = t·x0 + (1 - t)·scale·eps. The noise grows with the image, scale = 1 at
256 pixels and 2 at 512; no checkpoint stores it. From one of its blocks on, tokens of the class come before those of
the image: constants where they enter, but no longer in the block after, where they have seen the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aselect_edge.backbones.noise import FlowSchedule, Schedule
from aselect_edge.backbones.rotary import RotaryDiT
from aselect_runtime.errors import InputError
from aselect_runtime.records import Noise

SCALE = "noise_scale"


@dataclass(frozen=True)
class ScaledNoise(FlowSchedule):
    """The straight path to noise of another standard deviation than 1; timesteps are 1000·(1 - t)."""

    towards_data: bool = True

    @property
    def scale(self) -> float:
        """The standard deviation of the noise at t = 0."""
        return float(self.config[SCALE])

    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        return tuple(
            noise.model_copy(update={"sigma": noise.sigma * self.scale}) for noise in super().levels(timesteps)
        )

    def describe(self) -> str:
        return f"x = t·x0 + (1 - t)·{self.scale:g}·eps, fed t"


class JiT(RotaryDiT):
    """The reference."""

    family: ClassVar[str] = "jit"

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        scale = {SCALE: 1.0, **(config or {})}[SCALE]
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < 1e4:
            raise InputError(f"scheduler: got {SCALE} = {scale!r}, expected a positive number; change it")
        return ScaledNoise({SCALE: float(scale)})

    def default_schedule(self) -> Schedule:
        return self.schedule({SCALE: self.side / 256})
