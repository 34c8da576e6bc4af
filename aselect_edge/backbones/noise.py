"""From a scheduler's configuration to the noise levels of its timesteps.

The schedules are computed by diffusers; this module only interprets timestep indices.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_edge.backbones.scheduler_config import noise_fields
from aselect_runtime.errors import InputError
from aselect_runtime.records import Noise

DIT_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
"""The published DiT models' schedule, for a transformer without a scheduler."""


def cumulative_alphas(schedule: dict[str, Any]) -> NDArray[np.float64]:
    """alpha^2 at every timestep index, (timesteps,), from diffusers' `scheduler_config.json`; raises InputError."""
    import diffusers  # takes seconds, and a model whose noise is recorded needs no schedule

    noise = noise_fields(schedule)
    if noise.flow:
        raise InputError(f"scheduler: got {noise.scheduler} on the straight path, expected a diffusion; replace it")
    try:
        with warnings.catch_warnings(action="ignore"):  # diffusers' warnings about NumPy, which a user cannot act on
            scheduler = getattr(diffusers, noise.scheduler)(**noise.fields)
        betas, cumulative = scheduler.betas.numpy(), scheduler.alphas_cumprod.double().numpy()
    except (TypeError, ValueError, RuntimeError, ArithmeticError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"scheduler: not understood ({reason}), expected a DDPM schedule; replace it") from error
    if cumulative.shape != (noise.steps,):
        raise InputError(
            f"scheduler: got {cumulative.size} trained_betas, expected num_train_timesteps = {noise.steps}; correct it"
        )
    if not ((betas >= 0) & (betas <= 1)).all():
        raise InputError("scheduler: got betas outside 0 to 1, expected variance shares from 0 to 1; correct them")
    return cumulative


ASKED = ("timestep", "timesteps")
"""The parameters that select noise levels."""


ROUNDED = 0.02
"""Tolerated deviation of a hand-written record's noise from its path."""


class Schedule(ABC):
    """The meaning of a family's timesteps."""

    config: dict[str, Any]
    """diffusers' `scheduler_config.json`, the fields that decide the noise; empty if nothing is configurable."""

    @abstractmethod
    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        """The noise at each timestep; raises InputError for one that is out of range."""

    @abstractmethod
    def describe(self) -> str:
        """The schedule as a short text, for the warning that it was assumed."""

    @abstractmethod
    def lacks(self, noise: Noise) -> str | None:
        """The equation that noise of this path fulfils, if this noise is of another path; None if it fulfils it."""

    def candidates(self, count: int = 21) -> list[float]:
        """The timesteps to try if none are given."""
        return [float(t) for t in candidate_timesteps(1000, count)]


@dataclass(frozen=True)
class DiffusionSchedule(Schedule):
    """A variance-preserving schedule of discrete steps (DDPM, DDIM): timesteps are their indices."""

    config: dict[str, Any] = field(default_factory=lambda: dict(DIT_SCHEDULE))

    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        broken = [t for t in timesteps if not float(t).is_integer()]
        if broken:
            raise InputError(f"got timesteps {broken}, expected indices, whole numbers; change them", parameter=ASKED)
        return tuple(noise_levels(self.config, [int(t) for t in timesteps]))

    def describe(self) -> str:
        return json.dumps(self.config)

    def lacks(self, noise: Noise) -> str | None:
        return "alpha^2 + sigma^2 = 1" if abs(noise.alpha**2 + noise.sigma**2 - 1) > ROUNDED else None

    def candidates(self, count: int = 21) -> list[float]:
        return [float(t) for t in candidate_timesteps(noise_fields(self.config).steps, count)]


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """The straight path x = (1 - sigma)·x0 + sigma·eps: timesteps are `steps`·sigma, whatever the sampler's shift.

    A sampler's shift only chooses its sigmas; the model itself depends on sigma alone. It is fed `steps`·sigma.
    """

    config: dict[str, Any] = field(default_factory=dict)
    steps: int = 1000
    """diffusers' num_train_timesteps."""

    def describe(self) -> str:
        return f"x = (1 - sigma)·x0 + sigma·eps, fed {self.steps}·sigma"

    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        most = self.steps
        wrong = [t for t in timesteps if not 0 <= t <= most]
        if wrong:
            raise InputError(f"got timesteps {wrong}, expected {most}·sigma, 0 to {most}; change them", parameter=ASKED)
        return tuple(Noise(alpha=1 - t / most, sigma=t / most, model_timestep=t) for t in timesteps)

    def lacks(self, noise: Noise) -> str | None:
        if abs(noise.alpha + noise.sigma - 1) > ROUNDED:
            return "alpha + sigma = 1"
        fed = self.levels([noise.sigma * self.steps])[0].model_timestep
        return f"the timestep {fed:g}" if abs(noise.model_timestep - fed) > ROUNDED * max(1.0, fed) else None

    def candidates(self, count: int = 21) -> list[float]:
        return [t * self.steps / 1000 for t in candidate_timesteps(1000, count)]


def read_schedule(config: dict[str, Any], nameless: str = "DDPMScheduler") -> Schedule:
    """The schedule of a `scheduler_config.json`, on either path; `nameless` is the class assumed if it has no name.

    Raises InputError for an unknown class and for fields that change the noise and are not supported.
    """
    noise = noise_fields(config, nameless)
    if not noise.flow:
        return DiffusionSchedule(dict(config))
    return FlowSchedule({"_class_name": noise.scheduler, **noise.fields}, steps=noise.steps)


def read_flow_schedule(config: dict[str, Any] | None, family: str) -> FlowSchedule:
    """The schedule of a family that was trained on the straight path; raises InputError for another path."""
    schedule = read_schedule(config, "FlowMatchEulerDiscreteScheduler") if config else FlowSchedule()
    if not isinstance(schedule, FlowSchedule):
        raise InputError(
            f"scheduler: got {(config or {}).get('_class_name')}, expected a flow-matching scheduler, which {family} "
            "was trained with; save the pipeline with its own scheduler"
        )
    return schedule


def noise_levels(schedule: dict[str, Any], timesteps: list[int]) -> list[Noise]:
    """The noise at each timestep index of a variance-preserving schedule: sigma^2 = 1 - alpha^2."""
    cumulative = cumulative_alphas(schedule)
    wrong = [t for t in timesteps if not 0 <= t < len(cumulative)]
    if wrong:
        raise InputError(f"got timesteps {wrong}, expected 0 to {len(cumulative) - 1}; change them", parameter=ASKED)
    return [
        Noise(alpha=float(np.sqrt(cumulative[t])), sigma=float(np.sqrt(1 - cumulative[t])), model_timestep=t)
        for t in timesteps
    ]


def candidate_timesteps(total: int = 1000, count: int = 21) -> list[int]:
    """The paper's candidates: `count` indices spread evenly over 0 to total - 1."""
    return [round(t) for t in np.linspace(0, total - 1, count)]
