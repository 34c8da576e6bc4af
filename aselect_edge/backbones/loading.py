"""Loading a backbone, whatever it comes as, and saving one as the folder that diffusers writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from aselect_edge.backbones.dit import DiT, diffusers_keys
from aselect_edge.backbones.encoders import load_encoder
from aselect_edge.backbones.facebook import facebook_config, facebook_places, family_of_file
from aselect_edge.backbones.family import Backbone, Condition, Encoder, Pixels
from aselect_edge.backbones.folders import PROMPT, WEIGHTS, beside, local_folder, part_of, read_json, weight_files
from aselect_edge.backbones.noise import Schedule
from aselect_edge.backbones.store import Stored, WeightStore, fill
from aselect_edge.errors import InputError
from aselect_edge.files import atomic_write

BUNDLE = "bundle.json"
"""What makes a folder a bundle."""
SHIPPED = Path(__file__).parents[1] / "bundles" / "backbone"
"""The small pixel-space DiT inside the package; its source is written `shipped`."""

FAMILIES = {
    "dit": "aselect_edge.backbones.dit:DiT",
    "sit": "aselect_edge.backbones.sit:SiT",
    "sd3": "aselect_edge.backbones.sd3:SD3",
    "pixart": "aselect_edge.backbones.pixart:PixArt",
}
"""A family's name -> the class that is it."""
_OF_DIFFUSERS = {"DiTTransformer2DModel": "dit", "SD3Transformer2DModel": "sd3", "PixArtTransformer2DModel": "pixart"}
_BEFORE_SPLIT, _OF_NORM = "Transformer2DModel", {"ada_norm_zero": "dit", "ada_norm_single": "pixart"}
"""The class that diffusers had for all of them until 0.28, which the published DiT and PixArt still name."""


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone ready to be scanned or folded: the model, what encodes for it, and what it is conditioned on."""

    model: Backbone
    encoder: Encoder
    condition: Condition
    schedule: Schedule
    source: str
    revision: str | None = None
    vae: str | None = None
    """Where the encoder came from, if not with the model."""
    label: int | None = None
    """The class of the condition; None for no class, or a family without classes."""

    def x0(self, pixels: Tensor) -> Tensor:
        """The model's clean input (N, C, h, w) of pixels (N, 3, H, W), BGR, float 0..255."""
        return self.encoder.x0(pixels)

    @property
    def side(self) -> int:
        """Height and width of the frames that the model was trained on."""
        return self.model.side * self.encoder.stride

    def grid(self, imgsz: tuple[int, int]) -> tuple[int, int]:
        """Token rows and columns of frames of this size; raises InputError for one that cannot be taken."""
        return self.model.grid(*self.encoder.size(*imgsz))


def load_backbone(
    source: str,
    revision: str | None = None,
    warn: Callable[[str], None] = lambda _line: None,
    *,
    family: str | None = None,
    vae: str | None = None,
    label: int | None = None,
    heads: int | None = None,
    condition: Condition | None = None,
    depth: int | None = None,
    lean: bool = False,
) -> LoadedBackbone:
    """Load what `source` names; float32, eval mode. A bundle knows its own options; those given are not used.

    It is a diffusers folder (a pipeline, or its `transformer/`), a hub id, a `.pt` file of facebookresearch/DiT or
    SiT, a bundle, or `shipped`. `family` replaces what the source says of itself, `vae` (a folder or hub id) the
    pipeline's autoencoder; `label` conditions on a class instead of on none; `heads` is for `.pt` files of widths
    that were never published; `condition` is one computed before, instead of running text encoders.

    Only the first `depth` blocks are read; a `lean` model leaves them on disk until they are run or folded. The
    schedule is the pipeline's own; for a transformer that comes without one it is the published models', and `warn`
    is told. A local source is kept as an absolute path, so that records name it from anywhere. Raises InputError
    where the source is no backbone, IntegrityError where its weights are corrupt or of other shapes.
    """
    path = SHIPPED if source == "shipped" else Path(source)
    folder: Path | None = None
    if (path / BUNDLE).is_file():
        return _of_bundle(path, lean)
    if path.is_file():
        kind = family_class(family_of_file(path, family))
        if not issubclass(kind, DiT):
            raise InputError(
                f"{path}: got --family {family} for a single file, expected dit or sit, which come as one; "
                "give the diffusers folder of another family"
            )
        config = facebook_config(path, heads)
        model = build(kind, config, depth)
        fill_backbone(model, WeightStore([path], facebook_places(config, depth)), lean)
    else:
        folder = path if source == "shipped" else local_folder(source, revision)
        transformer = part_of(folder, "transformer")
        config = read_json(transformer / "config.json")
        kind = family_class(family or _family_of(config, transformer))
        model = build(kind, config, depth)
        fill_backbone(model, WeightStore(weight_files(transformer), own_places(model)), lean)
    encoder, origin = _encoder(model, folder, vae, source)
    name = str(path.resolve()) if source != "shipped" and path.exists() else source
    schedule = _schedule(kind, folder, source, warn)
    if condition is None:
        if model.prompted and folder is not None:
            local_folder(source, revision, PROMPT)  # of a hub id, gigabytes that other models have no use for
        condition = model.condition(label, folder)
    return LoadedBackbone(model, encoder, condition, schedule, name, revision, origin, label)


def family_class(name: str) -> type[Backbone]:
    """The class of a family; raises InputError for an unknown name."""
    home = FAMILIES.get(name)
    if home is None:
        raise InputError(f"got the family {name!r}, expected one of {', '.join(FAMILIES)}; change --family")
    module, _, kind = home.partition(":")
    found: type[Backbone] = getattr(import_module(module), kind)
    return found


def build(family: type[Backbone], config: dict[str, Any], depth: int | None = None) -> Backbone:
    """An unfilled model on the meta device."""
    with torch.device("meta"):
        return family.from_json(config, depth)


def own_places(model: Backbone) -> dict[str, Stored]:
    """Where the parameters of a model are in files with diffusers' names."""
    return {ours: Stored(theirs) for ours, theirs in model.keys().items()}


def fill_backbone(model: Backbone, store: WeightStore, lean: bool = False) -> None:
    """Give an unfilled model its weights, all of them or, if `lean`, all but the streamed; eval mode.

    Raises IntegrityError for a tensor that is missing or of another shape.
    """
    fill(model, store, "backbone weights", model.streamed if lean else ())
    model.store = store if lean else None
    model.requires_grad_(not lean)


def save_backbone(model: DiT, schedule: dict[str, Any], folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a pipeline folder that diffusers and `load_backbone` read."""
    state = model.state_dict()
    keys = diffusers_keys(model.config)
    tensors = {theirs: state[ours].detach().to("cpu", dtype).clone() for ours, theirs in keys.items()}
    transformer, scheduler = folder / "transformer", folder / "scheduler"
    atomic_write(transformer / "config.json", json.dumps(model.config.to_json(), indent=2) + "\n")
    # Through bytes, because safetensors and torch report a full disk as errors of their own kinds.
    atomic_write(transformer / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    atomic_write(
        scheduler / "scheduler_config.json", json.dumps({"_class_name": "DDPMScheduler", **schedule}, indent=2)
    )


def shipped_schedule() -> dict[str, Any]:
    """The shipped backbone's scheduler configuration."""
    return read_json(SHIPPED / "scheduler" / "scheduler_config.json")


def _of_bundle(path: Path, lean: bool) -> LoadedBackbone:
    from aselect_edge.bundle import load_bundle

    loaded = load_bundle(path).backbone(lean)
    # What a bundle was made with is in its record, and need not be told again by who names it; but one made from it,
    # with weights of its own, has to find the autoencoder.
    vae = None if isinstance(loaded.encoder, Pixels) else loaded.vae or loaded.source
    return replace(loaded, source=str(path.resolve()), revision=None, vae=vae, label=None)


def _family_of(config: dict[str, Any], where: Path) -> str:
    kind = str(config.get("_class_name"))
    name = _OF_NORM.get(str(config.get("norm_type"))) if kind == _BEFORE_SPLIT else _OF_DIFFUSERS.get(kind)
    if name is None:
        raise InputError(
            f"{where}: got {config.get('_class_name')!r}, expected one of {', '.join(_OF_DIFFUSERS)}; choose such a "
            "backbone"
        )
    return name


def _encoder(model: Backbone, folder: Path | None, vae: str | None, source: str) -> tuple[Encoder, str | None]:
    """The encoder, and where it came from if that is not the pipeline itself."""
    own = None if folder is None else beside(folder, "vae")
    origin = None
    if vae is not None:
        encoder, origin = load_encoder(vae), str(Path(vae).resolve()) if Path(vae).exists() else vae
    elif own is not None:
        encoder = load_encoder(str(own))
    elif model.channels == Pixels.channels:
        encoder = Pixels()
    else:
        raise InputError(
            f"{source}: got a model of {model.channels}-channel latents and no vae/, expected the autoencoder it was "
            "trained on; give --vae FOLDER_OR_HUB_ID, for DiT and SiT stabilityai/sd-vae-ft-mse"
        )
    if encoder.channels != model.channels:
        raise InputError(
            f"{source}: got an autoencoder of {encoder.channels} channels, expected {model.channels}, which the model "
            "takes; give --vae the one it was trained on"
        )
    return encoder, origin


def _schedule(family: type[Backbone], folder: Path | None, source: str, warn: Callable[[str], None]) -> Schedule:
    # A pipeline's own transformer/ folder may be named directly: its scheduler is then next to it.
    scheduler = None if folder is None else beside(folder, "scheduler")
    if scheduler is not None:
        return family.schedule(read_json(scheduler / "scheduler_config.json"))
    schedule = family.schedule(None)
    warn(f"{source}: no scheduler, taking the published models': {schedule.describe()}")
    return schedule
