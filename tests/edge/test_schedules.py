"""What a scheduler's configuration means, field by field, compared with diffusers' own schedulers and formulas."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.noise import DiffusionSchedule, FlowSchedule, Schedule, cumulative_alphas, read_schedule
from aselect_edge.backbones.pixart import PixArt
from aselect_edge.backbones.scheduler_config import (
    APPLIED,
    DIFFUSION,
    FLOW,
    FLOW_SIGMAS,
    NEUTRAL,
    SAMPLING,
    ZERO_SNR,
)
from aselect_edge.backbones.sd3 import SD3
from aselect_edge.backbones.sit import SiT
from aselect_runtime.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # within diffusers
X0, EPS = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def _theirs(kind: str, **fields: Any) -> tuple[Any, dict[str, Any]]:
    """diffusers' scheduler, and the configuration that it writes."""
    scheduler = copy.deepcopy(_built(kind, json.dumps(fields)))
    return scheduler, json.loads(scheduler.to_json_string())


@functools.cache
def _built(kind: str, fields: str) -> Any:
    """Once: KDPM2's take half a second each."""
    return getattr(diffusers, kind)(**json.loads(fields))


def _parameters(kind: str) -> set[str]:
    return set(inspect.signature(getattr(diffusers, kind).__init__).parameters) - {"self"}


def _cases() -> list[Any]:
    """(class, fields) of every diffusion class: its defaults, and each field and kind that changes its noise."""
    changes: list[dict[str, Any]] = [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 500},
        {"beta_start": 0.0003, "beta_end": 0.03},
        {"trained_betas": np.linspace(1e-4, 0.05, 1000).tolist()},
    ]
    zero: list[dict[str, Any]]
    zero = [{"rescale_betas_zero_snr": True}, {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"}]
    found: list[tuple[str, dict[str, Any]]]
    found = [(kind, change) for kind in sorted(DIFFUSION) for change in changes]
    found += [(kind, change) for kind in sorted(ZERO_SNR) for change in zero]
    found += [("DDPMScheduler", {"beta_schedule": kind}) for kind in ("sigmoid", "laplace")]
    found += [("HeunDiscreteScheduler", {"beta_schedule": "exp"})]
    return [
        pytest.param(kind, change, id=f"{kind}-{'-'.join(map(str, change)) or 'default'}") for kind, change in found
    ]


@pytest.mark.parametrize(("kind", "fields"), _cases())
def test_a_diffusion_classs_noise_is_what_it_adds_itself(kind: str, fields: dict[str, Any]) -> None:
    _, config = _theirs(kind, **fields)
    schedule = read_schedule(config)
    assert isinstance(schedule, DiffusionSchedule)
    last = fields.get("num_train_timesteps", 1000) - 1
    scheduler, _ = _theirs(kind, **fields)
    solver = hasattr(scheduler, "lambda_t")  # their add_noise is right for the timesteps that are set
    if solver:
        scheduler.set_timesteps(9)
    times = scheduler.timesteps.tolist() if solver else [0, 1, 97, last // 2, last - 1, last]
    for t, level in zip(times, schedule.levels(times), strict=True):
        if not solver:
            scheduler, _ = _theirs(kind, **fields)
        noised = scheduler.add_noise(X0, EPS, torch.tensor([t]))
        expected = scheduler.scale_model_input(noised, torch.tensor(t))  # those that count in sigma / alpha scale here
        torch.testing.assert_close(level.alpha * X0 + level.sigma * EPS, expected, rtol=1e-3, atol=1e-4)
        assert level.model_timestep == t


SPACINGS: list[dict[str, Any]] = [
    {},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_lu_lambdas": True},
    {"final_sigmas_type": "sigma_min"},
    {"lambda_min_clipped": -5.1},
    {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 10.0},
    {"solver_order": 1, "flow_shift": 3.0},
]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        pytest.param(kind, fields, id=f"{kind}-{'-'.join(fields) or 'default'}")
        for kind in sorted(DIFFUSION - {"LMSDiscreteScheduler"})
        for fields in SPACINGS
        if set(fields) <= _parameters(kind)
    ],
)
def test_where_a_sampler_stops_is_on_the_schedule(kind: str, fields: dict[str, Any]) -> None:
    """Fields that space a sampler's steps choose among the noise levels, and move none of them."""
    scheduler, config = _theirs(kind, **fields)
    cumulative = cumulative_alphas(config)
    curve = np.log((1 - cumulative) / cumulative) / 2  # of sigma / alpha, at every index
    scheduler.set_timesteps(12)
    if not hasattr(scheduler, "sigmas"):
        assert all(0 <= t < 1000 and t == int(t) for t in scheduler.timesteps)  # indices of `alphas_cumprod`
        return
    pairs = [(float(t), float(sigma)) for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False)]
    for t, sigma in pairs[:: 2 if "KDPM2" in kind else 1]:  # whose other steps are in between
        if sigma > 0:
            assert abs(np.interp(math.log(sigma), curve, np.arange(1000)) - t) <= 1.01  # they round t down


def _flow_cases() -> list[Any]:
    fields: list[dict[str, Any]] = [
        {},
        {"shift": 3.0},
        {"num_train_timesteps": 500, "shift": 2.0},
        {"num_train_timesteps": 1},
        {"shift_terminal": 0.1},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "num_train_timesteps": 2000},
        {"stochastic_sampling": True},
    ]
    found = [(kind, change) for kind in sorted(FLOW) for change in fields if set(change) <= _parameters(kind)]
    return [pytest.param(kind, change, id=f"{kind}-{'-'.join(change) or 'default'}") for kind, change in found]


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize(("kind", "fields"), _flow_cases())
def test_a_flow_classs_noise_is_what_it_adds_itself(kind: str, fields: dict[str, Any], sampling: bool) -> None:
    scheduler, config = _theirs(kind, **fields)
    if sampling:
        dynamic = {"mu": 0.7} if fields.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(7, **dynamic)
    schedule, fresh = read_schedule(config), copy.deepcopy(scheduler)
    assert isinstance(schedule, FlowSchedule)
    for t in scheduler.timesteps[:: max(1, len(scheduler.timesteps) // 9)]:
        (level,) = schedule.levels([min(float(t), schedule.steps)])
        scheduler = copy.deepcopy(fresh)  # some go on from the last step
        expected = scheduler.scale_noise(X0, t[None], EPS)
        torch.testing.assert_close(level.alpha * X0 + level.sigma * EPS, expected, rtol=1e-4, atol=1e-4)
        assert level.model_timestep == pytest.approx(float(t))


@pytest.mark.parametrize("fields", [{}, {"flow_shift": 3.0}, {"num_train_timesteps": 500}])
@pytest.mark.parametrize("kind", sorted(FLOW_SIGMAS))
def test_flow_sigmas_put_a_diffusion_class_on_the_straight_path(kind: str, fields: dict[str, Any]) -> None:
    scheduler, config = _theirs(kind, use_flow_sigmas=True, prediction_type="flow_prediction", **fields)
    schedule = DiT.schedule(config)
    assert isinstance(schedule, FlowSchedule)
    scheduler.set_timesteps(9)
    steps = fields.get("num_train_timesteps", 1000)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        (level,) = schedule.levels([steps * float(sigma)])
        assert (level.alpha, level.sigma) == pytest.approx(tuple(map(float, scheduler._sigma_to_alpha_sigma_t(sigma))))
        if kind != "SASolverScheduler":  # whose add_noise, unlike its steps, forgets about the path
            expected = scheduler.add_noise(X0, EPS, t[None])
            torch.testing.assert_close(level.alpha * X0 + level.sigma * EPS, expected, rtol=1e-3, atol=1e-3)
        assert abs(level.model_timestep - float(t)) <= 1.01  # they round it down


def test_every_field_of_every_class_is_accounted_for() -> None:
    for kind in DIFFUSION | FLOW:
        known = APPLIED | SAMPLING | set(NEUTRAL)
        assert _parameters(kind) <= known, (kind, _parameters(kind) - known)
    assert {kind for kind in DIFFUSION if "rescale_betas_zero_snr" in _parameters(kind)} == ZERO_SNR
    assert {kind for kind in DIFFUSION if "use_flow_sigmas" in _parameters(kind)} == FLOW_SIGMAS
    for kind in DIFFUSION:
        assert {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"} <= _parameters(kind)


def test_every_other_class_of_diffusers_is_refused_by_name() -> None:
    others = {name for name in dir(diffusers) if name.endswith("Scheduler")} - DIFFUSION - FLOW
    assert {"EDMEulerScheduler", "CogVideoXDDIMScheduler", "ScoreSdeVeScheduler", "IPNDMScheduler"} <= others
    for name in [*others, "MyScheduler"]:
        with pytest.raises(InputError, match=f"got the class '{name}', expected one of DDIM"):
            read_schedule({**_ddpm(), "_class_name": name})


def _ddpm(**fields: Any) -> dict[str, Any]:
    return {**_theirs("DDPMScheduler")[1], **fields}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "got invert_sigmas = True, expected False"),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "got timestep_type = 'continuous'"),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "got interpolation_type = 'log_linear'"),
    ("DDPMScheduler", {"snr_shift_scale": 3.0}, "got snr_shift_scale = 3.0"),
    ("PNDMScheduler", {"rescale_betas_zero_snr": True}, "expected false: PNDMScheduler does not read it"),
    ("DDIMScheduler", {"use_flow_sigmas": True}, "expected false: DDIMScheduler does not read it"),
    ("DDIMScheduler", {"prediction_type": "flow_prediction"}, "expected use_flow_sigmas with it"),
    ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "expected use_flow_sigmas with it"),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "use_karras_sigmas": True}, "got use_karras_sigmas"),
    ("DDPMScheduler", {"prediction_type": "trigflow"}, "got prediction_type = 'trigflow', expected one of epsilon"),
    ("DDPMScheduler", {"logsnr_shift": 2.0}, "got logsnr_shift = 2.0, expected no such field"),
    ("DDPMScheduler", {"num_train_timesteps": 0}, "got num_train_timesteps = 0, expected 1 to"),
    ("DDPMScheduler", {"num_train_timesteps": 1e3}, "got num_train_timesteps = 1000.0"),
    ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": True}, "got num_train_timesteps = True"),
    ("DDPMScheduler", {"rescale_betas_zero_snr": "yes"}, "got rescale_betas_zero_snr = 'yes', expected true or false"),
    ("DDPMScheduler", {"trained_betas": [0.1, 0.2]}, "got 2 trained_betas, expected num_train_timesteps = 1000"),
    ("DDPMScheduler", {"beta_end": 3.0}, "got betas outside 0 to 1"),
    ("DDPMScheduler", {"beta_schedule": "magic"}, "not understood .magic is not implemented"),
    ("EulerDiscreteScheduler", {"beta_schedule": "sigmoid"}, "not understood .sigmoid is not implemented"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED, ids=[f"{k}-{'-'.join(f)}" for k, f, _ in REFUSED])
def test_what_changes_the_noise_and_is_not_applied_is_refused_by_name(
    kind: str, fields: dict[str, Any], message: str
) -> None:
    _, config = _theirs(kind)
    with pytest.raises(InputError, match=message):
        read_schedule({**config, **fields}).levels([0])


@pytest.mark.parametrize("kind", sorted(DIFFUSION | FLOW))
def test_fields_left_over_from_another_class_mean_nothing(kind: str) -> None:
    """`from_config` of another class keeps the fields that it does not read."""
    _, config = _theirs(kind)
    other = "FlowMatchEulerDiscreteScheduler" if kind in DIFFUSION else "UniPCMultistepScheduler"
    converted = {**_theirs(other)[1], **config, "skip_prk_steps": True, "clip_sample": False, "set_alpha_to_one": False}
    assert read_schedule(converted).levels([1]) == read_schedule(config).levels([1])


def test_families_on_the_straight_path_refuse_another() -> None:
    for family in (SD3, SiT):
        with pytest.raises(InputError, match="got DDPMScheduler, expected a flow-matching scheduler"):
            family.schedule(_ddpm())
    assert SiT.schedule({}).levels([250])[0].model_timestep == 0.75


@pytest.mark.parametrize("steps", [1, 500, 1000, 4000])
def test_sd3_is_fed_so_many_times_sigma(steps: int) -> None:
    schedule = SD3.schedule(
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": steps, "shift": 3.0}
    )
    (level,) = schedule.levels([0.25 * steps])
    assert (level.alpha, level.sigma, level.model_timestep) == (0.75, 0.25, 0.25 * steps)
    with pytest.raises(InputError, match=f"expected {steps}·sigma, 0 to {steps}"):
        schedule.levels([steps + 1])
    sigmas = [level.sigma for level in schedule.levels(schedule.candidates())]
    assert sigmas == pytest.approx([round(t) / 1000 for t in np.linspace(0, 999, 21)])


@pytest.mark.parametrize("family", [DiT, PixArt, SD3])
@pytest.mark.parametrize("steps", [500, 1000])
def test_a_records_schedule_is_read_back_the_same(family: Any, steps: int) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
        *([] if family is SD3 else [("DDIMScheduler", {"rescale_betas_zero_snr": True})]),
    ]
    for kind, fields in cases:
        schedule: Schedule = family.schedule(_theirs(kind, num_train_timesteps=steps, **fields)[1])
        again = family.schedule(json.loads(json.dumps(schedule.config)))
        assert again == schedule


def _betas(kind: str, start: float, end: float, count: int) -> np.ndarray[Any, Any]:
    """The formulas, in float64."""
    if kind == "linear":
        return np.linspace(start, end, count)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2
    if kind == "sigmoid":
        return (end - start) / (1 + np.exp(-np.linspace(-6, 6, count))) + start
    share = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - share[1:] / share[:-1], 0.999)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2"]),
    start=st.floats(1e-5, 0.01),
    end=st.floats(0.011, 0.05),
    count=st.integers(2, 1200),
    zero_snr=st.booleans(),
    given_betas=st.booleans(),
    data=st.data(),
)
def test_diffusion_levels_are_the_formulas(
    kind: str, start: float, end: float, count: int, zero_snr: bool, given_betas: bool, data: st.DataObject
) -> None:
    betas = _betas(kind, start, end, count)
    alpha = np.sqrt(np.cumprod(1 - betas))
    if zero_snr:
        assume(alpha[0] - alpha[-1] > 0.05)  # of a schedule that barely adds noise the rescaling divides by nothing
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    config: dict[str, Any] = {"_class_name": "DDPMScheduler", "num_train_timesteps": count}
    config |= {"trained_betas": betas.tolist()} if given_betas else {"beta_schedule": kind}
    config |= {"beta_start": start, "beta_end": end, "rescale_betas_zero_snr": zero_snr}
    t = data.draw(st.integers(0, count - 1))
    (level,) = read_schedule(config).levels([t])
    assert level.alpha == pytest.approx(alpha[t], abs=5e-4)
    assert level.sigma == pytest.approx(math.sqrt(1 - alpha[t] ** 2), abs=2e-3)
    assert level.model_timestep == t


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 5000),
    share=st.floats(0, 1),
    shift=st.floats(0.1, 10),
    kind=st.sampled_from(sorted(FLOW)),
    spacing=st.sampled_from(["use_karras_sigmas", "use_beta_sigmas", "use_dynamic_shifting", "shift_terminal"]),
)
def test_flow_levels_are_the_formula_whatever_the_sampler_does(
    steps: int, share: float, shift: float, kind: str, spacing: str
) -> None:
    config = {
        "_class_name": kind,
        "num_train_timesteps": steps,
        "shift": shift,
        spacing: 0.1 if "term" in spacing else True,
    }
    (level,) = read_schedule(config).levels([share * steps])
    assert level.sigma == pytest.approx(share)
    assert level.alpha == pytest.approx(1 - share)
    assert level.model_timestep == share * steps
