"""JiT, "just image transformers" (arXiv 2511.13720): a DiT on pixels in large patches that predicts the clean image.

Straight path, fed t, which is 1 for a clean image: x = t·x0 + (1 - t)·scale·eps. The noise scale grows with the image,
1 at 256 pixels and 2 at 512; no checkpoint stores it. From a certain block on, class tokens precede the image tokens:
they are constants in that block, but not in later blocks, where they have attended to the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aselect_edge.backbones.noise import ASKED, ROUNDED, Schedule
from aselect_edge.backbones.rotary import RotaryDiT
from aselect_runtime.errors import InputError
from aselect_runtime.records import Noise

SCALE = "noise_scale"


@dataclass(frozen=True)
class ScaledNoise(Schedule):
    """The straight path to noise of a standard deviation other than 1; timesteps are 1000·(1 - t)."""

    config: dict[str, Any]

    @property
    def scale(self) -> float:
        """The standard deviation of the noise at t = 0."""
        return float(self.config[SCALE])

    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        wrong = [t for t in timesteps if not 0 <= t <= 1000]
        if wrong:
            raise InputError(f"got timesteps {wrong}, expected 1000·(1 - t), 0 to 1000; change them", parameter=ASKED)
        fed = [1 - t / 1000 for t in timesteps]
        return tuple(Noise(alpha=t, sigma=(1 - t) * self.scale, model_timestep=t) for t in fed)

    def describe(self) -> str:
        return f"x = t·x0 + (1 - t)·{self.scale:g}·eps, fed t"

    def lacks(self, noise: Noise) -> str | None:
        if abs(noise.alpha + noise.sigma / self.scale - 1) > ROUNDED:
            return f"alpha + sigma / {self.scale:g} = 1"
        off = abs(noise.model_timestep - noise.alpha) > ROUNDED
        return f"the timestep {noise.alpha:g}" if off else None


class JiT(RotaryDiT):
    """The reference model of JiT."""

    family: ClassVar[str] = "jit"

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        scale = {SCALE: 1.0, **(config or {})}[SCALE]
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < 1e4:
            raise InputError(f"scheduler: got {SCALE} = {scale!r}, expected a positive number; change it")
        return ScaledNoise({SCALE: float(scale)})

    def default_schedule(self) -> Schedule:
        return self.schedule({SCALE: self.side / 256})
