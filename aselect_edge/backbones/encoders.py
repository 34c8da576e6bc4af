"""The encoders of latent models, as diffusers' own classes compute them.

`AutoencoderKL`, `AutoencoderDC` and `AutoencoderTiny` are read from an autoencoder's folder (a pipeline's `vae/`),
without their decoders.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aselect_edge.backbones.accounting import Layout, check_layout
from aselect_edge.backbones.family import Affine, Encoder
from aselect_edge.backbones.folders import local_folder, part_of, read_json, weight_files
from aselect_edge.backbones.limits import check_counts
from aselect_edge.backbones.naming import AUTOENCODER, HOLDS_AUTOENCODER
from aselect_edge.backbones.registry import refuse_quantised
from aselect_edge.backbones.store import Stored, WeightStore, fill, tensors_of
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
_MOST_LAYERS = dict.fromkeys(("encoder_layers_per_block", "decoder_layers_per_block"), 64)
"""The same for AutoencoderDC's, some of whose levels have no layer."""


def load_encoder(source: str, affine: Affine | None = None) -> Encoder:
    """The encoder in a folder, a hub id (an autoencoder, or a pipeline with a `vae/`) or a single file.

    `affine` normalises its latents to x0 if the model defines that; None uses the autoencoder's own scale. eval mode,
    float32. Raises InputError if it is not an autoencoder of a known class, IntegrityError if its weights are corrupt.
    """
    path = Path(source)
    if path.is_file():
        own = (path.parent / "config.json").is_file()
        encoder = _filled(path.parent, [path]) if own else _of_file(path, affine is not None)
    else:
        encoder = _filled(part_of(local_folder(source, None, check=_check_config), "vae"), None)
    encoder.affine = affine or encoder.affine
    return encoder


def holds_autoencoder(path: Path) -> bool:
    """Whether the file of a model holds its autoencoder too; raises IntegrityError where it cannot be read."""
    return any(name.startswith(HOLDS_AUTOENCODER) for name in tensors_of(path))


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


def _of_file(path: Path, scaled: bool) -> Encoder:
    store = WeightStore([path], {}, AUTOENCODER)
    shapes = {name: held.shape for name, held in store.held.items()}
    config, said = vae_config(path, shapes, scaled)
    encoder = encoder_of(config, str(path))
    places = {name: vae_place(name) for name in encoder.state_dict()}
    known = frozenset(stored.name for stored in places.values())
    check_layout(store, Layout(places, known, IGNORED), f"{path}: autoencoder")
    fill(encoder, store.placed(places), "autoencoder weights")
    log.warning("%s: loaded as an autoencoder; %s", path, "; ".join(said))
    return encoder


def encoder_of(config: Mapping[str, Any], where: str = "autoencoder") -> Encoder:
    """An encoder without weights, on the meta device, for an autoencoder's `config.json`."""
    kinds: dict[str, type[KLEncoder] | type[DCEncoder] | type[TinyEncoder]] = {
        "AutoencoderKL": KLEncoder,
        "AutoencoderDC": DCEncoder,
        "AutoencoderTiny": TinyEncoder,
    }
    kind = kinds.get(str(config.get("_class_name")))
    if kind is None:
        raise InputError(
            f"{where}: got {config.get('_class_name')!r}, expected one of {', '.join(kinds)}; give such an autoencoder",
            parameter="vae",
        )
    if config.get("in_channels", 3) != 3:
        raise InputError(
            f"{where}: got {config['in_channels']} input channels, expected 3; give another autoencoder",
            parameter="vae",
        )
    check_counts(where, config, _MOST)
    check_counts(where, config, _MOST_LAYERS, least=0)
    try:
        with torch.device("meta"):
            return kind(config)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, KeyError, IndexError) as error:
        raise InputError(f"{where}: config not understood ({error}), expected diffusers'; check config.json") from error


class KLEncoder(Encoder):
    """The mean of `AutoencoderKL`'s posterior; x0 as `_affine` says."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        vae = AutoencoderKL(**_known(AutoencoderKL, config))
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.config = dict(config)
        self.channels = vae.config.latent_channels
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)
        self.affine = _affine(config, self.channels, vae.config.scaling_factor, vae.config.shift_factor)

    def forward(self, pixels: Tensor) -> Tensor:
        moments = self.encoder(pixels.flip(1) / 127.5 - 1)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments.chunk(2, dim=1)[0]


class DCEncoder(Encoder):
    """`AutoencoderDC` (DC-AE, arXiv 2410.10733), whose latents are no distribution; x0 as `_affine` says."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderDC

        vae = AutoencoderDC(**_known(AutoencoderDC, config))
        self.encoder = vae.encoder
        self.config = dict(config)
        self.channels = vae.config.latent_channels
        self.stride = vae.spatial_compression_ratio
        self.affine = _affine(config, self.channels, vae.config.scaling_factor, config.get("shift_factor"))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels.flip(1) / 127.5 - 1)


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
        self.affine = _affine(config, self.channels, vae.config.scaling_factor, vae.config.shift_factor)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels.flip(1) / 127.5 - 1)


def _affine(config: Mapping[str, Any], channels: int, scaling: float, shift: float | None) -> Affine:
    """x0 = scaling · (z - shift) or, where both are given, scaling · (z - latents_mean) / latents_std, as diffusers."""
    if config.get("latents_mean") is None and config.get("latents_std") is None:
        return Affine(scaling, -scaling * (shift or 0.0))
    mean, std = (_numbers(config, name, channels) for name in ("latents_mean", "latents_std"))
    if shift or min(std) <= 0:
        got = f"shift_factor = {shift} beside latents_mean" if shift else f"latents_std = {std!r}"
        raise InputError(f"autoencoder: got {got}, expected positive latents_std and no shift; check config.json")
    return Affine(tuple(scaling / s for s in std), tuple(-scaling * m / s for m, s in zip(mean, std, strict=True)))


def _numbers(config: Mapping[str, Any], name: str, channels: int) -> list[float]:
    numbers = config.get(name)
    fits = isinstance(numbers, (list, tuple)) and len(numbers) == channels
    if not fits or not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers or ()):
        raise InputError(
            f"autoencoder: got {name} = {numbers!r}, expected {channels} numbers, one for each channel of the latents; "
            "check config.json"
        )
    return list(numbers or ())


def _known(kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key in inspect.signature(kind.__init__).parameters}


def _old_name(name: str) -> str:
    for new, old in _OLD_NAMES.items():
        name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return name
