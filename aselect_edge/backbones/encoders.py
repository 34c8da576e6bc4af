"""The encoders of latent models, equal to diffusers' classes `AutoencoderKL` and `AutoencoderTiny`.

Both are read from an autoencoder's folder (a pipeline's `vae/`); their decoders are not loaded.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aselect_edge.backbones.accounting import Layout, check_layout
from aselect_edge.backbones.family import Affine, Encoder
from aselect_edge.backbones.folders import local_folder, part_of, read_json, weight_files
from aselect_edge.backbones.limits import check_counts
from aselect_edge.backbones.naming import AUTOENCODER
from aselect_edge.backbones.registry import refuse_quantised
from aselect_edge.backbones.store import Stored, WeightStore, fill
from aselect_edge.backbones.vae_file import IGNORED, vae_config, vae_place
from aselect_runtime.errors import InputError

log = logging.getLogger(__name__)

_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Names inside the middle block's attention: current diffusers names -> those saved before diffusers 0.18."""

_MOST = {
    **dict.fromkeys(("block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels"), 65536),
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels", "norm_num_groups", "sample_size"), 65536),
    **dict.fromkeys(("layers_per_block", "num_encoder_blocks", "num_decoder_blocks"), 64),
    "upsampling_scaling_factor": 64,
}
"""The largest number of each key of a config.json that says how large an autoencoder is."""


def load_encoder(source: str, revision: str | None = None) -> Encoder:
    """The encoder in a folder, a hub id (an autoencoder, or a pipeline with a `vae/`) or a single file.

    eval mode, float32. Raises InputError if it is not an autoencoder of a known class, IntegrityError if its weights
    are corrupt.
    """
    path = Path(source)
    if path.is_file():
        if not (path.parent / "config.json").is_file():
            return _of_file(path)
        return _filled(path.parent, [path])
    folder = part_of(local_folder(source, revision, check=_check_config), "vae")
    return _filled(folder, None)


def _check_config(folder: Path) -> None:
    place = part_of(folder, "vae")
    encoder_of(read_json(place / "config.json"), str(place))


def _filled(folder: Path, files: list[Path] | None) -> Encoder:
    config = read_json(folder / "config.json")
    refuse_quantised(config, folder)
    encoder = encoder_of(config, str(folder))
    places = {name: Stored(name) for name in encoder.state_dict()}
    store = WeightStore(files or weight_files(folder), places, AUTOENCODER).renamed(_old_name)
    known = frozenset(stored.name for stored in store.places.values())
    check_layout(store, Layout(store.places, known, (r"decoder\.", r"post_quant_conv\.")), f"{folder}: autoencoder")
    fill(encoder, store, "autoencoder weights")
    return encoder


def _of_file(path: Path) -> Encoder:
    store = WeightStore([path], {}, AUTOENCODER)
    shapes = {name: held.shape for name, held in store.held.items()}
    config, said = vae_config(path, shapes)
    encoder = encoder_of(config, str(path))
    places = {name: vae_place(name) for name in encoder.state_dict()}
    known = frozenset(stored.name for stored in places.values())
    check_layout(store, Layout(places, known, IGNORED), f"{path}: autoencoder")
    fill(encoder, store.placed(places), "autoencoder weights")
    log.warning("%s: loaded as an autoencoder; %s", path, "; ".join(said))
    return encoder


def encoder_of(config: Mapping[str, Any], where: str = "autoencoder") -> Encoder:
    """An encoder without weights, on the meta device, for an autoencoder's `config.json`."""
    kinds: dict[str, type[KLEncoder] | type[TinyEncoder]] = {"AutoencoderKL": KLEncoder, "AutoencoderTiny": TinyEncoder}
    kind = kinds.get(str(config.get("_class_name")))
    if kind is None:
        raise InputError(
            f"{where}: got {config.get('_class_name')!r}, expected {' or '.join(kinds)}; give an autoencoder of one "
            f"of these classes",
            parameter="vae",
        )
    if config.get("in_channels", 3) != 3:
        raise InputError(
            f"{where}: got {config['in_channels']} input channels, expected 3; give another autoencoder",
            parameter="vae",
        )
    check_counts(where, config, _MOST)
    try:
        with torch.device("meta"):
            return kind(config)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, KeyError, IndexError) as error:
        raise InputError(f"{where}: config not understood ({error}), expected diffusers'; check config.json") from error


class KLEncoder(Encoder):
    """The mean of `AutoencoderKL`'s posterior: x0 = scaling · (mean - shift)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise InputError(
                "autoencoder: got latents_mean or latents_std, expected scaling_factor alone; not supported"
            )
        vae = AutoencoderKL(**_known(AutoencoderKL, config))
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.config = dict(config)
        self.channels = vae.config.latent_channels
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)
        self.affine = _affine(vae.config.scaling_factor, vae.config.shift_factor)

    def forward(self, pixels: Tensor) -> Tensor:
        moments = self.encoder(pixels.flip(1) / 127.5 - 1)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments.chunk(2, dim=1)[0]  # type: ignore[no-any-return]


class TinyEncoder(Encoder):
    """`AutoencoderTiny` (TAESD), whose latents are already scaled: its `scaling_factor` is 1 as a rule."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderTiny

        vae = AutoencoderTiny(**_known(AutoencoderTiny, config))
        self.encoder = vae.encoder
        self.config = dict(config)
        self.channels = vae.config.latent_channels
        self.stride = 2 ** (len(vae.config.encoder_block_out_channels) - 1)
        self.affine = _affine(vae.config.scaling_factor, vae.config.shift_factor)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels.flip(1) / 127.5 - 1)  # type: ignore[no-any-return]


def _affine(scaling: float, shift: float | None) -> Affine:
    return Affine(scaling, -scaling * (shift or 0.0))


def _known(kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key in inspect.signature(kind.__init__).parameters}


def _old_name(name: str) -> str:
    for new, old in _OLD_NAMES.items():
        name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return name
