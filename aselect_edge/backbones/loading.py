"""Loading a backbone, whatever it comes as."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

import aselect_weights
from aselect_edge.backbones.building import build, fill_backbone, own_places
from aselect_edge.backbones.bundled import BUNDLE, read_bundle
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.encoders import load_encoder
from aselect_edge.backbones.facebook import facebook_config, facebook_places, family_of_file
from aselect_edge.backbones.family import Backbone, Condition, Encoder, Pixels
from aselect_edge.backbones.folders import PROMPT, beside, local_folder, part_of, read_json, weight_files
from aselect_edge.backbones.noise import Schedule
from aselect_edge.backbones.prompt import load_condition
from aselect_edge.backbones.registry import family_class, family_of_config
from aselect_edge.backbones.rotary_files import authors_file
from aselect_edge.backbones.store import WeightStore, shapes_of
from aselect_runtime.errors import InputError
from aselect_runtime.files import inside
from aselect_runtime.records import Bundle

log = logging.getLogger(__name__)

SHIPPED = aselect_weights.backbone
"""The small pixel-space DiT that ships; its source is written `shipped`."""


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

    It is a diffusers folder (a pipeline, or its `transformer/`), a hub id, a `.pt` file of facebookresearch/DiT, SiT,
    LightningDiT or JiT, a bundle, or `shipped`. `family` replaces what the source says of itself, `vae` (a folder or
    hub id) the pipeline's autoencoder; `label` conditions on a class instead of on none; `heads` is for `.pt` files of
    widths that were never published; `condition` is one computed before, instead of running text encoders.

    Only the first `depth` blocks are read; a `lean` model leaves them on disk until they are run or folded. The
    schedule is the pipeline's own; for a transformer that comes without one it is the published models', with a
    warning. A local source is kept as an absolute path, so that records name it from anywhere. Raises InputError
    where the source is no backbone, IntegrityError where its weights are corrupt or of other shapes.
    """
    path = SHIPPED if source == "shipped" else Path(source)
    folder: Path | None = None
    if (path / BUNDLE).is_file():
        return _of_bundle(path, lean)
    if path.is_file() and (authors := authors_file(path, shapes_of(path), family, heads)):
        model = build(authors.kind, authors.config, depth)
        fill_backbone(model, WeightStore([path], authors.places(depth)), lean)
    elif path.is_file():
        kind = family_class(family_of_file(path, family))
        if not issubclass(kind, DiT):
            raise InputError(
                f"{path}: got the family {family} for a single file, expected dit or sit, which come as one; "
                "give the diffusers folder of another family",
                parameter="family",
            )
        config = facebook_config(path, heads)
        model = build(kind, config, depth)
        fill_backbone(model, WeightStore([path], facebook_places(config, depth)), lean)
    else:
        folder = path if source == "shipped" else local_folder(source, revision)
        transformer = part_of(folder, "transformer")
        config = read_json(transformer / "config.json")
        kind = family_class(family or family_of_config(config, transformer))
        model = build(kind, config, depth)
        fill_backbone(model, WeightStore(weight_files(transformer), own_places(model)), lean)
    encoder, origin = _encoder(model, folder, vae, source)
    name = str(path.resolve()) if source != "shipped" and path.exists() else source
    schedule = _schedule(model, folder, source)
    if condition is None:
        if model.prompted and folder is not None:
            local_folder(source, revision, PROMPT)  # of a hub id, gigabytes that other models have no use for
        condition = model.condition(label, folder)
    return LoadedBackbone(model, encoder, condition, schedule, name, revision, origin, label)


def shipped_schedule() -> dict[str, Any]:
    """The shipped backbone's scheduler configuration."""
    return read_json(SHIPPED / "scheduler" / "scheduler_config.json")


def backbone_of(folder: Path, record: Bundle, lean: bool = False) -> LoadedBackbone:
    """The blocks that a bundle's taps need, with what encodes for them and what they are conditioned on."""
    source = record.backbone
    depth = 1 + max(tap.block for tap in record.taps)
    condition = None if source.condition is None else load_condition(inside(folder, source.condition))
    if source.file is None:
        return load_backbone(
            source.source,
            source.revision,
            family=source.family,
            vae=source.vae,
            label=source.label,
            heads=source.config.get("num_attention_heads"),
            condition=condition,
            depth=depth,
            lean=lean,
        )
    model = build(family_class(source.family), source.config, depth)
    fill_backbone(model, WeightStore([inside(folder, source.file)], own_places(model)), lean)
    if condition is None:
        condition = model.condition(source.label)
    encoder = Pixels() if model.channels == Pixels.channels else load_encoder(source.vae or source.source)
    encoder.affine = model.affine or encoder.affine
    # Bundles before 1.1 do not keep their schedule; the shipped backbone's is known.
    known = shipped_schedule() if source.schedule is None and source.source == "shipped" else source.schedule
    schedule = model.schedule(known)
    name, revision = source.source, source.revision
    return LoadedBackbone(model, encoder, condition, schedule, name, revision, source.vae, source.label)


def _of_bundle(path: Path, lean: bool) -> LoadedBackbone:
    loaded = backbone_of(path, read_bundle(path), lean)
    # What a bundle was made with is in its record, and need not be told again by who names it; but one made from it,
    # with weights of its own, has to find the autoencoder.
    vae = None if isinstance(loaded.encoder, Pixels) else loaded.vae or loaded.source
    return replace(loaded, source=str(path.resolve()), revision=None, vae=vae, label=None)


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
            "trained on; give its folder or hub id, for DiT and SiT stabilityai/sd-vae-ft-mse",
            parameter="vae",
        )
    if encoder.channels != model.channels:
        raise InputError(
            f"{source}: got an autoencoder of {encoder.channels} channels, expected {model.channels}, which the model "
            "takes; give the one it was trained on",
            parameter="vae",
        )
    encoder.affine = model.affine or encoder.affine
    return encoder, origin


def _schedule(model: Backbone, folder: Path | None, source: str) -> Schedule:
    # A pipeline's own transformer/ folder may be named directly: its scheduler is then next to it.
    scheduler = None if folder is None else beside(folder, "scheduler")
    if scheduler is not None:
        return model.schedule(read_json(scheduler / "scheduler_config.json"))
    schedule = model.default_schedule()
    log.warning("%s: no scheduler, taking the published models': %s", source, schedule.describe())
    return schedule
