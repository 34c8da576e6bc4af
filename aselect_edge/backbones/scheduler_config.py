"""The fields of diffusers' `scheduler_config.json` that decide the noise, and their effect.

A scheduler does two things: it defines the noise that a model was trained with, and it chooses the noise levels of a
sampler. Only the first matters here. Every field of the known classes is in one of the sets below; a field that decides
the noise and is not supported is refused by name, and so are unknown classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aselect_runtime.errors import InputError

BETAS = ("beta_start", "beta_end", "beta_schedule")
ZERO_SNR = frozenset(
    {
        "DDPMScheduler",
        "DDPMParallelScheduler",
        "DDIMScheduler",
        "DDIMParallelScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    }
)
"""The diffusion classes that read `rescale_betas_zero_snr`."""
FLOW_SIGMAS = frozenset(
    {
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    }
)
"""The diffusion classes that read `use_flow_sigmas`, which puts them on the straight path."""
DIFFUSION = (
    ZERO_SNR
    | FLOW_SIGMAS
    | {
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
    }
)
FLOW = frozenset({"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"})

APPLIED = frozenset(
    {"num_train_timesteps", *BETAS, "trained_betas", "rescale_betas_zero_snr", "use_flow_sigmas", "prediction_type"}
)
SIGMA_SPACINGS = frozenset({"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"})
SAMPLING = SIGMA_SPACINGS | {
    "algorithm_type",
    "base_image_seq_len",
    "base_shift",
    "clip_sample",
    "clip_sample_range",
    "corrector_order",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "lambda_min_clipped",
    "lower_order_final",
    "max_image_seq_len",
    "max_shift",
    "original_inference_steps",
    "predict_x0",
    "predictor_order",
    "sample_max_value",
    "scale_factors",
    "set_alpha_to_one",
    "shift",
    "shift_terminal",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "stochastic_sampling",
    "tau_func",
    "tensor_format",
    "thresholding",
    "time_shift_type",
    "timestep_scaling",
    "timestep_spacing",
    "upscale_mode",
    "use_dynamic_shifting",
    "variance_type",
}
"""The noise levels and steps of a sampler: they change neither a noise level nor the model's input there."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "invert_sigmas": (None, False),
    "timestep_type": (None, "discrete"),
    "interpolation_type": (None, "linear"),
    "snr_shift_scale": (None, 1, 1.0),
}
"""Fields that change the noise or the model's input and are not supported: only these values are accepted."""
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")
MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class NoiseFields:
    """The decisive content of a configuration: class, whether its path is the straight one, and further fields."""

    scheduler: str
    flow: bool
    fields: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """`num_train_timesteps`: timesteps are indices below it or, on the straight path, this number times sigma."""
        return int(self.fields.get("num_train_timesteps", 1000))


def noise_fields(config: Mapping[str, Any], nameless: str = "DDPMScheduler") -> NoiseFields:
    """The fields of a scheduler's configuration that decide the noise, checked.

    A configuration without `_class_name` is one of `nameless`. Raises InputError for an unknown class, for a field that
    changes the noise and is not supported, and for fields that contradict each other.
    """
    kind = config.get("_class_name") or nameless
    if not isinstance(kind, str) or kind not in DIFFUSION | FLOW:
        known = ", ".join(sorted(DIFFUSION | FLOW))
        raise InputError(f"scheduler: got the class {kind!r}, expected one of {known}; save the pipeline with one")
    _check_values(config)
    if kind in FLOW:
        return NoiseFields(kind, True, _given(config, ("num_train_timesteps",)))
    _check_diffusion(config, kind)
    if config.get("use_flow_sigmas"):
        return NoiseFields(kind, True, _given(config, ("num_train_timesteps", "use_flow_sigmas", "prediction_type")))
    needed = ("num_train_timesteps", *BETAS)
    missing = [key for key in needed if key not in config] if "_class_name" not in config else []
    if missing:
        raise InputError(f"scheduler: got no {missing[0]}, expected a diffusion (DDPM or DDIM) schedule; replace it")
    zero_snr = ("rescale_betas_zero_snr",) if kind in ZERO_SNR else ()
    return NoiseFields(kind, False, _given(config, (*needed, "trained_betas", *zero_snr)))


def _given(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: config[key] for key in keys if config.get(key) is not None}


def _check_values(config: Mapping[str, Any]) -> None:
    """Raise InputError for a value of the wrong kind, and for a field whose effect is not supported."""
    steps = config.get("num_train_timesteps", 1)
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise _refusal("num_train_timesteps", steps, f"1 to {MOST_STEPS}", "correct the scheduler")
    for key in ("rescale_betas_zero_snr", "use_flow_sigmas"):
        if config.get(key) not in (None, False, True):
            raise _refusal(key, config[key], "true or false", "correct the scheduler")
    for key, values in NEUTRAL.items():
        if config.get(key) not in values:
            raise _refusal(key, config[key], repr(values[1]), "it changes the noise and is not supported")
    if config.get("prediction_type", "epsilon") not in PREDICTIONS:
        expected = f"one of {', '.join(PREDICTIONS)}"
        raise _refusal("prediction_type", config["prediction_type"], expected, "it is not supported")
    for key, value in config.items():
        known = key in APPLIED or key in SAMPLING or key in NEUTRAL or key.startswith("_")
        if not known and value not in (None, False):
            raise _refusal(key, value, "no such field", "its effect on the noise is unknown: remove it")


def _check_diffusion(config: Mapping[str, Any], kind: str) -> None:
    """Raise InputError for a field that this diffusion class does not read, and for contradictory fields."""
    flow = bool(config.get("use_flow_sigmas"))
    if flow and kind not in FLOW_SIGMAS:
        raise _refusal("use_flow_sigmas", True, f"false: {kind} does not read it", "save the right scheduler")
    if config.get("rescale_betas_zero_snr") and not flow and kind not in ZERO_SNR:
        raise _refusal("rescale_betas_zero_snr", True, f"false: {kind} does not read it", "save the right scheduler")
    if config.get("prediction_type") == "flow_prediction" and not flow:
        raise _refusal("prediction_type", "flow_prediction", "use_flow_sigmas with it", "save the right scheduler")
    spaced = sorted(key for key in SIGMA_SPACINGS if config.get(key))
    if flow and spaced:
        raise _refusal(spaced[0], config[spaced[0]], "false with use_flow_sigmas", "correct the scheduler")


def _refusal(key: str, value: Any, expected: str, remedy: str) -> InputError:
    return InputError(f"scheduler: got {key} = {value!r}, expected {expected}; {remedy}")
