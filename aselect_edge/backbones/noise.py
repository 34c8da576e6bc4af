"""From a scheduler's configuration to the noise levels that are meant.

The arithmetic of the schedules is diffusers'; this module only reads what a timestep index means.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.errors import InputError
from aselect_runtime.records import Noise

DIT_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
"""The published DiT models' schedule, for a transformer that comes without a scheduler."""


def cumulative_alphas(schedule: dict[str, Any]) -> NDArray[np.float64]:
    """alpha^2 at every timestep index, (timesteps,), from diffusers' `scheduler_config.json`; raises InputError."""
    from diffusers import DDPMScheduler

    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    missing = [key for key in keys[:4] if key not in schedule]
    if missing:
        raise InputError(f"scheduler: got no {missing[0]}, expected a diffusion (DDPM or DDIM) schedule; replace it")
    try:
        scheduler = DDPMScheduler(**{key: schedule[key] for key in keys if schedule.get(key) is not None})
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"scheduler: not understood ({error}), expected a DDPM schedule; replace it") from error
    return scheduler.alphas_cumprod.double().numpy()  # type: ignore[no-any-return]


ASKED = ("timestep", "timesteps")
"""The parameters that ask for noise levels."""


class Schedule(ABC):
    """What the timesteps of a family mean."""

    config: dict[str, Any]
    """diffusers' `scheduler_config.json`, as far as it decides that; empty where nothing is left to decide."""

    @abstractmethod
    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        """The noise at each timestep; raises InputError for one that is out of range."""

    @abstractmethod
    def describe(self) -> str:
        """In words, for who is told that it was assumed."""

    def candidates(self, count: int = 21) -> list[int]:
        """The timesteps to try where none are asked for."""
        return candidate_timesteps(1000, count)


@dataclass(frozen=True)
class DiffusionSchedule(Schedule):
    """A variance-preserving schedule of discrete steps (DDPM, DDIM): timesteps are their indices."""

    config: dict[str, Any] = field(default_factory=lambda: dict(DIT_SCHEDULE))

    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        broken = [t for t in timesteps if t != int(t)]
        if broken:
            raise InputError(f"got timesteps {broken}, expected indices, whole numbers; change them", parameter=ASKED)
        return tuple(noise_levels(self.config, [int(t) for t in timesteps]))

    def describe(self) -> str:
        return json.dumps(self.config)

    def candidates(self, count: int = 21) -> list[int]:
        return candidate_timesteps(len(cumulative_alphas(self.config)), count)


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """The straight path x = (1 - sigma)·x0 + sigma·eps: timesteps are 1000·sigma, whatever the sampler's shift.

    A sampler's shift only says at which sigmas it stops; the model knows sigma alone. It is fed 1000·sigma, or,
    with `towards_data`, 1 - sigma (SiT's time, in which 1 is data).
    """

    config: dict[str, Any] = field(default_factory=dict)
    towards_data: bool = False

    def describe(self) -> str:
        return f"x = (1 - sigma)·x0 + sigma·eps, fed {'1 - sigma' if self.towards_data else '1000·sigma'}"

    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        wrong = [t for t in timesteps if not 0 <= t <= 1000]
        if wrong:
            raise InputError(f"got timesteps {wrong}, expected 1000·sigma, 0 to 1000; change them", parameter=ASKED)
        return tuple(
            Noise(alpha=1 - t / 1000, sigma=t / 1000, model_timestep=1 - t / 1000 if self.towards_data else t)
            for t in timesteps
        )


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
