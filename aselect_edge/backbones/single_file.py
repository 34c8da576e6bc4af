"""Backbones in a single file: the model is recognised by its tensors, and reported."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor

from aselect_edge.backbones import facebook, pixart_file, repa, sd3_file
from aselect_edge.backbones.accounting import Layout, check_layout
from aselect_edge.backbones.building import build, fill_backbone, translated
from aselect_edge.backbones.class_conditional import sincos_positions
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.evidence import sit_schedule
from aselect_edge.backbones.family import Backbone, Encoder
from aselect_edge.backbones.kinds import kind_of_file
from aselect_edge.backbones.noise import Schedule
from aselect_edge.backbones.registry import family_class
from aselect_edge.backbones.rotary_files import authors_file
from aselect_edge.backbones.sit import SiT
from aselect_edge.backbones.store import Stored, WeightStore, notes_of
from aselect_edge.options import BackboneOptions
from aselect_runtime.errors import InputError
from aselect_runtime.options import refuse_unused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FromFile:
    """A model from a file, and the file's further information."""

    model: Backbone
    schedule: Schedule | None
    """The schedule; None for that of the published models."""
    notes: Mapping[str, Any]
    """Metadata of the training script."""


def is_diffusers_file(path: Path) -> bool:
    """Whether a file has diffusers' names, so that its folder describes it; raises InputError for unknown models."""
    if kind_of_file(path, WeightStore([path], {}).held) != "diffusers":
        return False
    if not (path.parent / "config.json").is_file():
        raise InputError(
            f"{path}: got diffusers' weights without their config.json, expected their folder; give the "
            "folder that diffusers wrote"
        )
    return True


def load_file(path: Path, asked: BackboneOptions, depth: int | None = None, lean: bool = False) -> FromFile:
    """The model in a single file of any supported layout, cut to `depth` blocks; warns of assumptions.

    Raises InputError if the file holds another model or lacks required information.
    """
    file = _File(path, WeightStore([path], {}), *notes_of(path))
    read = {"dit": _of_dit_layout, "sd3": _of_sd3, "pixart": _of_pixart, "rotary": _of_rotary}
    found = read[kind_of_file(path, file.store.held)](file, asked)
    if not issubclass(family_class(found.family), SiT):
        given = {"sit_time": asked.sit_time, "sit_path": asked.sit_path}
        refuse_unused(given, f"{path}, a {found.family}", "SiT-like files")
    model = build(family_class(found.family), found.config, depth)
    fill_backbone(model, file.store.placed(found.places(model)), lean)
    weights = [f"the weights under {file.taken!r}"] if file.taken else []
    log.warning("%s: loaded as %s (%s); %s", path, found.family, found.why, "; ".join([*weights, *found.said]))
    return FromFile(model, found.schedule, file.notes)


def check_latents(where: str, encoder: Encoder, notes: Mapping[str, Any]) -> None:
    """Raise InputError if a file's metadata has other statistics of its latents than its autoencoder."""
    for names, got in (
        (("latents_scale", "scaling_factor", "scale_factor"), encoder.affine.gain),
        (("latents_bias", "shift_factor"), encoder.affine.offset),
    ):
        noted = next((notes[name] for name in names if isinstance(notes.get(name), (int, float, list, tuple))), None)
        if noted is not None and not _agree(noted, got):
            raise InputError(
                f"{where}: got metadata of latents scaled by {noted}, expected the autoencoder's {got}; give the "
                "autoencoder that it was trained on",
                parameter="vae",
            )


def _agree(noted: float | Sequence[Any], got: float | tuple[float, ...]) -> bool:
    """Whether the numbers in the metadata equal those in use, one or one per channel."""
    values = list(noted) if isinstance(noted, (list, tuple)) else [noted]
    used = list(got) if isinstance(got, tuple) else [got] * len(values)
    return len(values) == len(used) and all(
        isinstance(value, (int, float)) and abs(value - own) <= 1e-3 * max(1, abs(own))
        for value, own in zip(values, used, strict=True)
    )


class _File(NamedTuple):
    path: Path
    store: WeightStore
    notes: Mapping[str, Any]
    taken: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: held.shape for name, held in self.store.held.items()}


class _Found(NamedTuple):
    """The recognised model; `why`, and the assumptions (`said`), are reported to the user."""

    family: str
    why: str
    config: dict[str, Any]
    places: Callable[[Backbone], dict[str, Stored]]
    said: list[str]
    schedule: Schedule | None = None


def _of_dit_layout(file: _File, asked: BackboneOptions) -> _Found:
    file.store.relabelled(repa.legacy_names(file.shapes))
    path, shapes = file.path, file.shapes
    check_layout(file.store, _dit_layout(shapes), str(path))
    family, why = facebook.family_of_file(path, asked.family, shapes, file.notes)
    if not issubclass(family_class(family), DiT):
        raise InputError(
            f"{path}: got the family {family} for a single file, expected dit or sit, whose layout it has; give one of "
            "these, or the diffusers folder of another family",
            parameter="family",
        )
    schedule: Schedule | None = None
    config, said = facebook.facebook_config(path, shapes, asked.num_heads, file.notes)
    latents, patch = repa.latents_of(path, file.store), facebook.linear_patch(shapes)
    if latents:
        config, said = config | latents, [*said, "latents normalised by the statistics in it (REPA-E)"]
    if issubclass(family_class(family), SiT):
        schedule, reasons = sit_schedule(path, shapes, file.notes, asked.sit_time, asked.sit_path)
        said = [*reasons, *said]
    return _Found(
        family,
        why,
        config,
        lambda model: facebook.facebook_places(config, None if cast(DiT, model).whole else model.depth, patch),
        said,
        schedule,
    )


def _dit_layout(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    places = facebook.facebook_places(facebook.blocks_of(shapes))
    tokens, width = shapes.get("pos_embed", (1, 0, 0))[1:]
    side = math.isqrt(tokens)
    square = bool(side) and side * side == tokens and width % 4 == 0
    tables = {"pos_embed": sincos_positions(width, (side, side), side)} if square else {}
    known = frozenset(place.name for place in places.values()) | {"pos_embed"}
    known |= frozenset(repa.STATISTICS) if repa.has_statistics(shapes) else frozenset()
    return Layout(places, known, facebook.IGNORED, tables)


def _of_rotary(file: _File, asked: BackboneOptions) -> _Found:
    found = authors_file(file.path, file.store, asked.family, asked.num_heads)
    why = "by its tensor names"
    return _Found(found.kind.family, why, found.config, lambda model: found.places(model.depth), [])


def _of_sd3(file: _File, asked: BackboneOptions) -> _Found:
    config, said = sd3_file.sd3_config(file.path, file.shapes, asked.num_heads)
    return _wrapped("sd3", file, asked, config, sd3_file.sd3_place, sd3_file.IGNORED, said, lambda _model: {})


def _of_pixart(file: _File, asked: BackboneOptions) -> _Found:
    table = file.store.tensor("pos_embed") if "pos_embed" in file.shapes else None
    config, said = pixart_file.pixart_config(file.path, file.shapes, table, asked.num_heads)
    side = config["sample_size"] // config["patch_size"]

    def tables(model: Any) -> dict[str, Tensor]:
        return {"pos_embed": model.positions((side, side))}

    return _wrapped("pixart", file, asked, config, pixart_file.pixart_place, pixart_file.IGNORED, said, tables)


def _wrapped(
    family: str,
    file: _File,
    asked: BackboneOptions,
    config: dict[str, Any],
    place: Callable[[str, Mapping[str, Any]], Stored],
    ignored: tuple[str, ...],
    said: list[str],
    tables: Callable[[Backbone], dict[str, Tensor]],
) -> _Found:
    if asked.family not in (None, family):
        raise InputError(
            f"{file.path}: got the family {asked.family} for a single file, expected {family}, whose layout it has; "
            "leave it out",
            parameter="family",
        )

    def places(model: Backbone) -> dict[str, Stored]:
        return translated(model, lambda name: place(name, config))

    whole = build(family_class(family), config)
    known = frozenset(stored.name for stored in places(whole).values())
    check_layout(file.store, Layout(places(whole), known, ignored, tables(whole)), str(file.path))
    return _Found(family, "by its tensor names", config, places, said)
