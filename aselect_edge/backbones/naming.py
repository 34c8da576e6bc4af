"""From tensor names in a file to the model's names: remove the prefixes of wrappers and of all-in-one files."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aselect_runtime.errors import IntegrityError

_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Name parts that torch.compile and FSDP add, at any position."""
MODEL = ("model.diffusion_model.", "diffusion_model.", "module.", "model.", "net.")
AUTOENCODER = ("first_stage_model.", "vae.", "module.", "model.")
HOLDS_AUTOENCODER = AUTOENCODER[:2]
"""What the names of an autoencoder in a model's file begin with."""
_AVERAGES = ("ema_model.", "model_ema.", "ema.")
_PLAIN = ("online_model.", "model.", "module.", "net.", "")
_ELSE = re.compile(
    r"(?:first_stage_model|cond_stage_model|conditioner|text_encoders?|text_model|vae|clip_[lg]|t5xxl)\."
    r"|(?:betas|alphas_cumprod.*|(?:sqrt|log|posterior)_.*|logvar|n_averaged|initted|step|decay|num_updates|global_step)$"
    r"|model_sampling\.|model_ema\.(?:decay|num_updates)$|loss\.|discriminator\."
)
"""Other parts of an all-in-one file, and constants of its sampler: not part of the model."""


def own_names(names: Iterable[str], prefixes: tuple[str, ...] = MODEL) -> dict[str, str]:
    """Name without prefixes -> name in the file; averaged weights replace plain ones stored next to them.

    A prefix is removed if every tensor has it, or if all others belong to a known other part, which is left out.
    Raises IntegrityError if two tensors would get the same name.
    """
    found: dict[str, str] = {}
    for name in names:
        bare = _WRAPPERS.sub("", name)
        if bare in found:
            raise IntegrityError(
                f"got the tensors {found[bare]} and {name} in one file, expected one tensor {bare}; save the model "
                f"alone"
            )
        found[bare] = name
    if prefixes == AUTOENCODER:  # in an all-in-one file, the prefix marks all of its tensors
        for prefix in HOLDS_AUTOENCODER:
            part = {name.removeprefix(prefix): place for name, place in found.items() if name.startswith(prefix)}
            if part:
                return part
    else:  # an autoencoder beside the model is no part of it
        found = {name: place for name, place in found.items() if not name.startswith(AUTOENCODER[1])} or found
    found = _averaged(found)
    while stripped := _stripped(found, prefixes):
        found = stripped
    return found


def _stripped(names: dict[str, str], prefixes: tuple[str, ...]) -> dict[str, str] | None:
    """The names without the one prefix that all tensors of the model have; None if they have none."""
    for prefix in prefixes:
        own = {name.removeprefix(prefix): place for name, place in names.items() if name.startswith(prefix)}
        others = [name for name in names if not name.startswith(prefix)]
        if own and all(_ELSE.match(name) for name in others):
            return own
    return None


def _averaged(names: dict[str, str]) -> dict[str, str]:
    """Only the averages, if each tensor is in the file twice, plain and averaged."""
    for prefix in _AVERAGES:
        average = {name.removeprefix(prefix): place for name, place in names.items() if name.startswith(prefix)}
        average = {name: place for name, place in average.items() if name not in ("decay", "num_updates")}
        rest = [name for name in names if not name.startswith(prefix) and not _ELSE.match(name)]
        if not average:
            continue
        for plain in _PLAIN:
            others = [name.removeprefix(plain) for name in rest if name.startswith(plain)]
            if len(others) != len(rest):
                continue
            if set(others) <= average.keys():
                return average
            undotted = {name: name.replace(".", "") for name in others}  # as latent-diffusion's LitEma stores them
            if set(undotted.values()) == average.keys():
                return {name: average[short] for name, short in undotted.items()}
    return names
