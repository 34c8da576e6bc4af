"""From a family and its configuration to a model with weights, and to the folder that diffusers writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from aselect_edge.backbones.accounting import Layout
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import diffusers_keys
from aselect_edge.backbones.family import Backbone
from aselect_edge.backbones.folders import WEIGHTS
from aselect_edge.backbones.store import Stored, WeightStore, fill
from aselect_runtime.files import atomic_write


def build(family: type[Backbone], config: dict[str, Any], depth: int | None = None) -> Backbone:
    """An unfilled model on the meta device."""
    with torch.device("meta"):
        return family.from_json(config, depth)


def own_places(model: Backbone) -> dict[str, Stored]:
    """Where the parameters of a model are in files with diffusers' names."""
    return {ours: Stored(theirs) for ours, theirs in model.keys().items()}


def translated(model: Backbone, place: Callable[[str], Stored]) -> dict[str, Stored]:
    """Where the parameters of a model are in files with names of their own: `place` of diffusers' name."""
    return {ours: place(theirs) for ours, theirs in model.keys().items()}


def layout_of(model: Backbone, config: dict[str, Any]) -> Layout:
    """What a file with diffusers' names may hold, for a model of `config` that may be cut."""
    whole = build(type(model), config)
    return Layout(own_places(model), frozenset(whole.keys().values()), model.unread, whole.tables())


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
