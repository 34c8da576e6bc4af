"""Backbones: one module for each model family, and the readers of the checkpoints that people have."""

from __future__ import annotations

from aselect_edge.backbones.building import save_backbone
from aselect_edge.backbones.dit import DiT, DiTConfig
from aselect_edge.backbones.family import Backbone, Encoder
from aselect_edge.backbones.loading import LoadedBackbone, load_backbone

__all__ = ["Backbone", "DiT", "DiTConfig", "Encoder", "LoadedBackbone", "load_backbone", "save_backbone"]
