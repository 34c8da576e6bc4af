"""The empty prompt's embeddings, computed once by a pipeline's text encoders, or read from a file.

The choice of encoders, the padding, masking and joining of their tokens, and the replacement of a missing T5 are those
of diffusers' `encode_prompt`; this module only ensures that one encoder is in memory at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from aselect_edge.backbones.family import Condition
from aselect_edge.backbones.folders import read_json, sibling_folder
from aselect_edge.backbones.hub import VARIANTS
from aselect_edge.backbones.registry import refuse_quantised
from aselect_edge.backbones.store import WeightStore
from aselect_runtime.errors import InputError, IntegrityError, MissingDependencyError
from aselect_runtime.files import atomic_write

CONDITION = "condition.safetensors"
"""A file of this name in a pipeline's folder is used instead of running its text encoders."""


def prompt_condition(family: str, config: Mapping[str, Any], label: int | None, folder: Path | None) -> Condition:
    """The empty prompt for a model of `family` with diffusers' `config`; raises InputError if it cannot be computed."""
    if label is not None:
        raise InputError(
            f"got the label {label} for a {family} model, expected none: it has no classes; leave it out",
            parameter="label",
        )
    if folder is not None and (folder / CONDITION).is_file():
        return load_condition(folder / CONDITION)
    first = sibling_folder(folder, "text_encoder") if folder is not None else None
    if first is None:
        raise InputError(
            f"{folder}: got no text_encoder folder, expected the text encoders of a {family} pipeline; load the whole "
            f"pipeline, or give the empty prompt's embeddings, {CONDITION}",
            parameter="condition",
        )
    return empty_prompt(family, config, first.parent)


def empty_prompt(family: str, config: Mapping[str, Any], pipeline: Path) -> Condition:
    """Run the text encoders of the pipeline folder on the empty prompt, in float32, each loaded only while it runs.

    SD3: `prompt` (1, 333, joint_attention_dim) and `pooled`; the others: `prompt` (1, L, C) and `mask` (1, L), with
    L = 120 or 300 for PixArt, 300 for Sana, and the tokenizer's own length for PRX.
    """
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDependencyError(
            "got no transformers, expected it for the text encoders; pip install 'aselect-edge[train]'"
        ) from error
    encode: dict[str, Callable[[Mapping[str, Any], Path], Condition]] = {
        "sd3": _sd3,
        "pixart": _pixart,
        "prx": _prx,
        "sana": _sana,
    }
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # diffusers' bars go to stderr even if that is not a terminal
    logging.set_verbosity_error()  # importing pipelines warns of image processors, which are not used here
    try:
        with torch.no_grad():
            condition = encode[family](config, pipeline)
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    broken = [name for name, value in condition.items() if not value.isfinite().all()]
    if broken:
        raise IntegrityError(f"{pipeline}: got NaN or infinity in {broken[0]} of the empty prompt; download it again")
    return condition


def save_condition(condition: Condition, path: Path) -> None:
    """Write a condition as safetensors, atomically."""
    atomic_write(path, save({name: value.contiguous() for name, value in condition.items()}))


def load_condition(path: Path) -> Condition:
    """Read a condition; raises InputError if there is no file, IntegrityError if it is not a condition."""
    try:
        condition = load(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected a condition; check the path") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(f"{path}: unreadable ({error}), expected safetensors; compute it again") from error
    for name, value in condition.items():
        if value.ndim == 0 or len(value) != 1 or not value.isfinite().all():
            raise IntegrityError(
                f"{path}: got {name} of shape {list(value.shape)}, expected finite values for one prompt, (1, …); "
                "compute it again"
            )
    return {name: value.float() if value.is_floating_point() else value for name, value in condition.items()}


class _Passing:
    """A text encoder that is in memory only while it encodes."""

    dtype = torch.float32

    def __init__(self, kind: Any, folder: Path, **options: Any) -> None:
        self.kind, self.folder, self.options = kind, folder, options

    def __call__(self, *tokens: Tensor, **options: Any) -> Any:
        encoder = _load(self.kind, self.folder, dtype=self.dtype, **self.options, **_form(self.folder))
        return encoder.eval()(*tokens, **options)


class _Width:
    """The only property of a transformer that the pipeline reads to encode: the width of a missing T5's zeros."""

    def __init__(self, width: int) -> None:
        self.config = SimpleNamespace(joint_attention_dim=width, sample_size=None, patch_size=None)


def _form(folder: Path) -> dict[str, Any]:
    """Loading options for a text encoder's files: safetensors before torch's, full before reduced precision.

    Raises InputError for quantised weights.
    """
    config = folder / "config.json"
    if config.is_file():
        refuse_quantised(read_json(config), folder)
    for suffix in ("safetensors", "bin"):
        files = sorted(folder.glob(f"*.{suffix}"))
        plain = [file for file in files if not any(f".{name}" in file.name for name in VARIANTS)]
        variant = next((name for name in VARIANTS if any(f".{name}" in file.name for file in files)), None)
        if files:
            _refuse_quantised_files(plain or [file for file in files if f".{variant}" in file.name])
            return {"use_safetensors": suffix == "safetensors", "variant": None if plain else variant}
    return {"use_safetensors": True}


def _refuse_quantised_files(files: list[Path]) -> None:
    try:
        WeightStore(files, {}, ())
    except IntegrityError:
        return  # transformers reports the error


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # transformers raises many unrelated kinds for a broken or missing folder
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{folder}: not loaded ({reason}), expected a {kind.__name__} with its weights; download it again"
        ) from error


def _sd3(config: Mapping[str, Any], folder: Path) -> Condition:
    from diffusers import StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

    clip, t5 = CLIPTextModelWithProjection, T5EncoderModel
    with_t5 = (folder / "text_encoder_3").is_dir()  # without it, diffusers uses zeros
    pipeline = StableDiffusion3Pipeline(
        transformer=_Width(config["joint_attention_dim"]),
        scheduler=None,
        vae=None,
        tokenizer=_load(CLIPTokenizer, folder / "tokenizer"),
        tokenizer_2=_load(CLIPTokenizer, folder / "tokenizer_2"),
        tokenizer_3=_load(T5TokenizerFast, folder / "tokenizer_3") if with_t5 else None,
        text_encoder=_Passing(clip, folder / "text_encoder"),
        text_encoder_2=_Passing(clip, folder / "text_encoder_2"),
        text_encoder_3=_Passing(t5, folder / "text_encoder_3") if with_t5 else None,
    )
    prompt, _, pooled, _ = pipeline.encode_prompt(
        "", None, None, device=torch.device("cpu"), do_classifier_free_guidance=False
    )
    return {"prompt": prompt, "pooled": pooled}


def _pixart(_config: Mapping[str, Any], folder: Path) -> Condition:
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline
    from transformers import T5EncoderModel, T5TokenizerFast

    index = folder / "model_index.json"
    sigma = index.is_file() and read_json(index).get("_class_name") == "PixArtSigmaPipeline"
    pipeline = (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        transformer=None,
        scheduler=None,
        vae=None,
        tokenizer=_load(T5TokenizerFast, folder / "tokenizer"),
        text_encoder=_Passing(T5EncoderModel, folder / "text_encoder"),
    )
    prompt, mask, _, _ = pipeline.encode_prompt("", device=torch.device("cpu"), do_classifier_free_guidance=False)
    return {"prompt": prompt, "mask": mask}


def _prx(_config: Mapping[str, Any], folder: Path) -> Condition:
    from diffusers import PRXPipeline
    from transformers import AutoTokenizer
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    place = folder / "text_encoder"
    written = read_json(place / "config.json")
    # The encoder alone, or the whole model's configuration, of which transformers 5 no longer finds the encoder's.
    whole = "encoder" in written
    encoder = T5GemmaConfig.from_dict(written).encoder if whole else T5GemmaModuleConfig.from_dict(written)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of a base class of theirs
        pipeline = PRXPipeline(
            transformer=None,
            scheduler=None,
            vae=None,
            tokenizer=_load(AutoTokenizer, folder / "tokenizer"),
            text_encoder=_Passing(T5GemmaEncoder, place, config=encoder),
        )
    # Cleaning leaves the empty text as it is, and diffusers does it with a package that nothing else here needs.
    pipeline.text_preprocessor = SimpleNamespace(clean_text=str)
    prompt, mask, _, _ = pipeline.encode_prompt("", device=torch.device("cpu"), do_classifier_free_guidance=False)
    return {"prompt": prompt, "mask": mask.long()}


def _sana(_config: Mapping[str, Any], folder: Path) -> Condition:
    from diffusers import SanaPipeline
    from transformers import AutoTokenizer, Gemma2Model

    pipeline = SanaPipeline(
        transformer=None,
        scheduler=None,
        vae=None,
        tokenizer=_load(AutoTokenizer, folder / "tokenizer"),
        text_encoder=_Passing(Gemma2Model, folder / "text_encoder"),
    )
    # As the pipeline encodes its negative prompt: without the instruction to a language model before it.
    prompt, mask, _, _ = pipeline.encode_prompt("", device=torch.device("cpu"), do_classifier_free_guidance=False)
    return {"prompt": prompt, "mask": mask}
