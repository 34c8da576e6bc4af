"""Backbones: one module for each model family, and the readers of the checkpoints that people have."""

from __future__ import annotations

from aselect_edge.backbones.building import save_backbone
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.backbones.family import Backbone, Encoder
from aselect_edge.backbones.loaded import LoadedBackbone
from aselect_edge.backbones.loading import load_backbone

__all__ = ["Backbone", "DiT", "DiTConfig", "Encoder", "LoadedBackbone", "load_backbone", "save_backbone"]
