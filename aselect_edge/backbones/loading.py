"""Load a backbone from any supported source."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aselect_weights
from aselect_edge.backbones.accounting import check_layout
from aselect_edge.backbones.building import build, fill_backbone, layout_of, own_places
from aselect_edge.backbones.bundled import BUNDLE, read_bundle
from aselect_edge.backbones.digest import check_encoder, check_weights
from aselect_edge.backbones.encoders import holds_autoencoder, load_encoder
from aselect_edge.backbones.family import Backbone, Condition, Encoder, Pixels
from aselect_edge.backbones.folders import PROMPT, local_folder, read_json, sibling_folder, transformer_of, weight_files
from aselect_edge.backbones.loaded import LoadedBackbone
from aselect_edge.backbones.noise import Schedule
from aselect_edge.backbones.prompt import load_condition
from aselect_edge.backbones.registry import family_class, family_of_config, refuse_quantised
from aselect_edge.backbones.single_file import check_latents, is_diffusers_file, load_file
from aselect_edge.backbones.sit import PathSchedule
from aselect_edge.backbones.store import WeightStore
from aselect_edge.options import BackboneOptions
from aselect_runtime.errors import InputError
from aselect_runtime.files import inside
from aselect_runtime.options import refuse_unused
from aselect_runtime.records import BackboneSource, Bundle

log = logging.getLogger(__name__)

SHIPPED = aselect_weights.backbone
"""The small pixel-space DiT that is included; its source is written `shipped`."""
IN_CONFIGURATION = ("num_heads", "sit_time", "sit_path")
"""Options of a single file in its authors' layout; every other source has a configuration that holds them."""


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
    sit_time: str | None = None,
    sit_path: str | None = None,
) -> LoadedBackbone:
    """Load the backbone `source`; float32, eval mode. Options that have no effect on it are refused.

    `source` is a diffusers folder (a pipeline, or its `transformer/`), a hub id, a single file of DiT, SiT, PixArt,
    SD3, LightningDiT or JiT, a bundle, or `shipped`. `family` replaces the source's own family, `vae` (a folder, file
    or hub id) the pipeline's autoencoder; `label` conditions on a class instead of on none; `heads` is for single files
    of unpublished widths; `condition` is a condition computed earlier, used instead of running text encoders.
    `sit_time` (what the model is fed, `1-sigma` or `sigma`) and `sit_path` (`linear`, `cosine` or `vp`) replace the
    values found in a SiT-like file. A bundle has its own of all these.

    Only the first `depth` blocks are read; a `lean` model leaves them on disk until they are run or folded. The
    schedule is the pipeline's; a transformer without one gets that of the published models, with a warning. A local
    source is stored as an absolute path, so that records stay valid in any working directory. Raises InputError if the
    source is not a backbone, IntegrityError if its weights are corrupt or of other shapes.
    """
    options = BackboneOptions(
        family=family,
        vae=vae,
        num_heads=heads,
        condition=condition,
        label=label,
        revision=revision,
        sit_time=sit_time,
        sit_path=sit_path,
    )
    return load(source, options, depth, lean)


def load(
    source: str, options: BackboneOptions, depth: int | None = None, lean: bool = False, *, recorded: bool = False
) -> LoadedBackbone:
    """`load_backbone` with its options as one record, whose condition may be a file.

    Those that are `recorded` in a bundle may have no effect on its source; others are refused then.
    """
    condition = options.condition
    if isinstance(condition, (str, Path)):
        condition = load_condition(Path(condition))
    path = SHIPPED if source == "shipped" else Path(source)
    folder: Path | None = None
    if (path / BUNDLE).is_file():
        if not recorded:
            own = options.given("family", "vae", "revision", "label", "condition", *IN_CONFIGURATION)
            refuse_unused(own, f"the bundle {source}, which has its own", "other backbones")
        return _of_bundle(path, lean)
    notes: Mapping[str, Any] = {}
    schedule: Schedule | None = None
    in_own_layout = path.is_file() and not is_diffusers_file(path)
    if not recorded and path.exists():
        refuse_unused(options.given("revision"), f"the local {source}", "a hub id")
    if not recorded and not in_own_layout:
        refuse_unused(options.given(*IN_CONFIGURATION), source, "a single file in the layout of the model's authors")
    if in_own_layout:
        found = load_file(path, options, depth, lean)
        model, schedule, notes = found.model, found.schedule, found.notes
    else:
        folder = _folder(path, source, options.revision, options.family)
        transformer = transformer_of(folder)
        model = _of_folder(
            transformer, options.family, depth, lean, [path] if path.is_file() else weight_files(transformer)
        )
    if condition is not None and not recorded:
        if not model.prompted:
            refuse_unused(options.given("condition"), f"{source}, which has no prompt", "models with text encoders")
        refuse_unused(options.given("label"), "a condition", "a model with classes", by=("condition",))
        model.check_condition(condition)
    encoder, origin = _encoder(model, folder, options.vae, source)
    check_latents(source, encoder, notes)
    name = str(path.resolve()) if source != "shipped" and path.exists() else source
    if schedule is None:
        schedule = _schedule(model, folder, source)
    if condition is None:
        if model.prompted and folder is not None:
            local_folder(source, options.revision, PROMPT)  # for a hub id, gigabytes that other models do not need
        condition = model.condition(options.label, folder)
    return LoadedBackbone(model, encoder, condition, schedule, name, options.revision, origin, options.label)


def _folder(path: Path, source: str, revision: str | None, family: str | None) -> Path:
    """The model's folder, downloaded if needed; a hub id of an unsupported model is refused before the download."""
    if path.is_file():
        return path.parent
    if source == "shipped":
        return path

    def check(folder: Path) -> None:
        transformer = transformer_of(folder)
        config = read_json(transformer / "config.json")
        if family is None:
            family_of_config(config, source)
        refuse_quantised(config, source)

    return local_folder(source, revision, check=check)


def _of_folder(transformer: Path, family: str | None, depth: int | None, lean: bool, files: list[Path]) -> Backbone:
    config = read_json(transformer / "config.json")
    kind = family_class(family or family_of_config(config, transformer))
    refuse_quantised(config, transformer)
    model = build(kind, config, depth)
    store = WeightStore(files, own_places(model))
    check_layout(store, layout_of(model, config), str(transformer))
    fill_backbone(model, store, lean)
    return model


def shipped_schedule() -> dict[str, Any]:
    """The shipped backbone's scheduler configuration."""
    return read_json(SHIPPED / "scheduler" / "scheduler_config.json")


def backbone_of(folder: Path, record: Bundle, lean: bool = False, check: bool = True) -> LoadedBackbone:
    """The blocks that a bundle's taps need, with their encoder and condition.

    With `check`, raises IntegrityError if the parts outside the bundle are not those it was trained on.
    """
    source = record.backbone
    depth = 1 + max(tap.block for tap in record.taps)
    condition = None if source.condition is None else load_condition(inside(folder, source.condition))
    if source.file is None:
        heads = source.config.get("num_attention_heads")
        options = BackboneOptions(
            family=source.family,
            vae=source.vae,
            num_heads=heads,
            condition=condition,
            label=source.label,
            revision=source.revision,
            **_path_of(source),
        )
        loaded = load(source.source, options, depth, lean, recorded=True)
        if check:
            check_weights(loaded.model, source, depth)
            check_encoder(loaded.encoder, source)
        return loaded
    model = build(family_class(source.family), source.config, depth)
    fill_backbone(model, WeightStore([inside(folder, source.file)], own_places(model)), lean)
    if condition is None:
        condition = model.condition(source.label)
    pixels = model.channels == Pixels.channels
    encoder = Pixels() if pixels else load_encoder(source.vae or source.source, affine=model.affine)
    if check:
        check_encoder(encoder, source)
    # Bundles before version 1.1 do not store their schedule; that of the shipped backbone is known.
    known = shipped_schedule() if source.schedule is None and source.source == "shipped" else source.schedule
    schedule = model.schedule(known)
    name, revision = source.source, source.revision
    return LoadedBackbone(model, encoder, condition, schedule, name, revision, source.vae, source.label)


def _path_of(source: BackboneSource) -> dict[str, str]:
    """The time and path of a SiT, as stored in its bundle: the file may not hold them."""
    if source.family != "sit":
        return {}
    kept = PathSchedule(**(source.schedule or {}))
    return {"sit_time": kept.time, "sit_path": kept.path}


def _of_bundle(path: Path, lean: bool) -> LoadedBackbone:
    record = read_bundle(path)
    if record.clean is not None:
        raise InputError(
            f"{path}: got a bundle of a clean backbone, whose features of noisy images are lost, expected a "
            f"backbone that has them; give the one that it was made from, {record.backbone.source}",
            parameter="backbone",
        )
    loaded = backbone_of(path, record, lean)
    # The record holds the options that a bundle was made with, so they need not be given again; a bundle made from
    # that bundle, with its own weights, must still find the autoencoder.
    vae = None if isinstance(loaded.encoder, Pixels) else loaded.vae or loaded.source
    return replace(loaded, source=str(path.resolve()), revision=None, vae=vae, label=None)


def _encoder(model: Backbone, folder: Path | None, vae: str | None, source: str) -> tuple[Encoder, str | None]:
    """The encoder, and its origin if that is not the pipeline itself."""
    own = None if folder is None else sibling_folder(folder, "vae")
    origin = None
    if vae is not None:
        encoder = load_encoder(vae, affine=model.affine)
        origin = str(Path(vae).resolve()) if Path(vae).exists() else vae
    elif own is not None:
        encoder = load_encoder(str(own), affine=model.affine)
    elif model.channels == Pixels.channels:
        encoder = Pixels()
    elif folder is None and holds_autoencoder(Path(source)):
        encoder = load_encoder(source, affine=model.affine)
    else:
        raise InputError(
            f"{source}: got a model of {model.channels}-channel latents and no vae/, expected the autoencoder that it "
            "was trained on; give its folder or hub id, for DiT and SiT stabilityai/sd-vae-ft-mse",
            parameter="vae",
        )
    if encoder.channels != model.channels:
        raise InputError(
            f"{source}: got an autoencoder of {encoder.channels} channels, expected {model.channels}, as the model's "
            "input; give the one it was trained on",
            parameter="vae",
        )
    return encoder, origin


def _schedule(model: Backbone, folder: Path | None, source: str) -> Schedule:
    # The transformer/ folder of a pipeline may be given directly: the scheduler is then in the folder next to it.
    scheduler = None if folder is None else sibling_folder(folder, "scheduler")
    if scheduler is not None:
        return model.schedule(read_json(scheduler / "scheduler_config.json"))
    schedule = model.default_schedule()
    log.warning("%s: no scheduler found, using that of the published models: %s", source, schedule.describe())
    return schedule
