"""From a scheduler's configuration to the noise levels that are meant.

The arithmetic of the schedules is diffusers'; this module only reads what a timestep index means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_edge.errors import InputError
from aselect_edge.records import Noise

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


def noise_levels(schedule: dict[str, Any], timesteps: list[int]) -> list[Noise]:
    """The noise at each timestep index of a variance-preserving schedule: sigma^2 = 1 - alpha^2."""
    cumulative = cumulative_alphas(schedule)
    wrong = [t for t in timesteps if not 0 <= t < len(cumulative)]
    if wrong:
        raise InputError(f"got timesteps {wrong}, expected 0 to {len(cumulative) - 1}; change --timesteps")
    return [
        Noise(alpha=float(np.sqrt(cumulative[t])), sigma=float(np.sqrt(1 - cumulative[t])), model_timestep=t)
        for t in timesteps
    ]


def candidate_timesteps(total: int = 1000, count: int = 21) -> list[int]:
    """The paper's candidates: `count` indices spread evenly over 0 to total - 1."""
    return [round(t) for t in np.linspace(0, total - 1, count)]
