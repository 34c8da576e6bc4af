"""AutoencoderTiny in place of the AutoencoderKL that a model was trained with."""

from __future__ import annotations

from dataclasses import replace

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.backbones.encoders import KLEncoder, TinyEncoder, load_encoder
from aselect_runtime.errors import InputError


def with_tiny(backbone: LoadedBackbone, vae: str) -> LoadedBackbone:
    """The backbone with the AutoencoderTiny in a folder or hub id.

    Raises InputError where the backbone's own is no AutoencoderKL whose latents it imitates, or `vae` is none.
    """
    own = backbone.encoder
    if not isinstance(own, KLEncoder) or backbone.model.affine is not None:
        kind = encoder_name(own) + (" with statistics of its latents" if backbone.model.affine is not None else "")
        raise InputError(
            f"got the encoder tiny for a model whose encoder is {kind}, expected AutoencoderKL; use another encoder",
            parameter="encoder",
        )
    tiny = load_encoder(vae)
    if not isinstance(tiny, TinyEncoder):
        raise InputError(f"{vae}: got {encoder_name(tiny)}, expected AutoencoderTiny; give another", parameter="vae")
    if (tiny.channels, tiny.stride) != (own.channels, own.stride):
        raise InputError(
            f"{vae}: got an AutoencoderTiny of {tiny.channels} channels and stride {tiny.stride}, expected "
            f"{own.channels} and {own.stride} as the model's autoencoder has; give the one that imitates it",
            parameter="vae",
        )
    return replace(backbone, encoder=tiny)


def encoder_name(encoder: object) -> str:
    """An encoder as diffusers calls it; `pixels` for none."""
    kinds = {
        "KLEncoder": "AutoencoderKL",
        "DCEncoder": "AutoencoderDC",
        "TinyEncoder": "AutoencoderTiny",
        "Pixels": "pixels",
    }
    return kinds.get(type(encoder).__name__, type(encoder).__name__)


def replaced(encoder: object) -> str:
    """What a stem replaces of a model with this encoder."""
    name = encoder_name(encoder)
    return "the patch embedding" if name == "pixels" else f"{name} and the patch embedding"
