"""Distillation: a small convolutional stem learns to give a model's tokens straight from the frame."""

from __future__ import annotations

from aselect_edge.distillation.run import Distillation, distil

__all__ = ["Distillation", "distil"]
