"""Build a model with weights from a family and its configuration, and write the folder that diffusers reads."""

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
    """A model without weights, on the meta device."""
    with torch.device("meta"):
        return family.from_json(config, depth)


def own_places(model: Backbone) -> dict[str, Stored]:
    """Model parameter name -> its location in files that use diffusers' names."""
    return {ours: Stored(theirs) for ours, theirs in model.keys().items()}


def translated(model: Backbone, place: Callable[[str], Stored]) -> dict[str, Stored]:
    """Model parameter name -> its location in files with other names; `place` maps diffusers' name to that location."""
    return {ours: place(theirs) for ours, theirs in model.keys().items()}


def layout_of(model: Backbone, config: dict[str, Any]) -> Layout:
    """Which tensors a file with diffusers' names may contain, for a model of `config` that may be truncated."""
    whole = build(type(model), config)
    return Layout(own_places(model), frozenset(whole.keys().values()), model.unread, whole.tables())


def fill_backbone(model: Backbone, store: WeightStore, lean: bool = False) -> None:
    """Load the weights of an empty model: all of them or, if `lean`, all but the streamed ones; sets eval mode.

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
    # Written through bytes, because safetensors and torch report a full disk with their own exception classes.
    atomic_write(transformer / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    atomic_write(
        scheduler / "scheduler_config.json", json.dumps({"_class_name": "DDPMScheduler", **schedule}, indent=2)
    )
