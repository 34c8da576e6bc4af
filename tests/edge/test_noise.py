"""Timesteps and what they mean in noise, as diffusers has them."""

from __future__ import annotations

import itertools

import pytest
import torch

from aselect_edge.backbones.noise import candidate_timesteps, cumulative_alphas, noise_levels
from aselect_runtime.errors import InputError


def test_the_candidates_are_the_papers() -> None:
    steps = candidate_timesteps()
    assert (len(steps), steps[0], steps[-1]) == (21, 0, 999)
    assert {b - a for a, b in itertools.pairwise(steps)} == {49, 50}


def test_noise_levels_are_those_of_diffusers() -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    levels = noise_levels(dict(scheduler.config), [0, 500, 999])
    x0, eps = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    for level in levels:
        expected = scheduler.add_noise(x0, eps, torch.tensor([int(level.model_timestep)]))
        torch.testing.assert_close(level.alpha * x0 + level.sigma * eps, expected, rtol=1e-4, atol=1e-5)
        assert level.alpha**2 + level.sigma**2 == pytest.approx(1)


@pytest.mark.parametrize(
    "wrong",
    [{"beta_schedule": "magic"}, {"num_train_timesteps": "many"}, {"beta_start": "low"}, {"num_train_timesteps": -1}],
)
def test_another_scheduler_is_refused(wrong: dict[str, object]) -> None:
    schedule = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    with pytest.raises(InputError, match="scheduler"):
        cumulative_alphas({**schedule, **wrong})
    with pytest.raises(InputError, match="got no beta_start"):
        cumulative_alphas({"num_train_timesteps": 1000, "shift": 3.0})
    with pytest.raises(InputError, match="got FlowMatchEulerDiscreteScheduler on the straight path"):
        cumulative_alphas({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0})
