"""Input checks that families share: the grid of patches, and the class that a model is conditioned on."""

from __future__ import annotations

import torch

from aselect_edge.backbones.family import Condition
from aselect_runtime.errors import InputError

MOST_TOKENS = 1 << 18
"""Of an input: 8192x8192 pixels in patches of 16. Attention of as many is beyond any memory."""


def patch_grid(patch: int, height: int, width: int) -> tuple[int, int]:
    """Token rows and columns of an input of this size; raises InputError if they are not multiples of the patch."""
    if height % patch or width % patch or not height or not width:
        raise InputError(
            f"got an input of {height}x{width}, expected multiples of the patch size {patch}; change the size",
            parameter="imgsz",
        )
    if (height // patch) * (width // patch) > MOST_TOKENS:
        raise InputError(
            f"got an input of {height}x{width} in patches of {patch}, expected at most {MOST_TOKENS} of them; choose a "
            "smaller size",
            parameter="imgsz",
        )
    return height // patch, width // patch


def class_condition(classes: int, null_class: bool, label: int | None) -> Condition:
    """The class `label` (1,); for None the class after the last one, which means no class; raises InputError."""
    if label is None and not null_class:
        raise InputError(
            f"got a model of {classes} classes without a null class, expected a class label; choose one, 0 to "
            f"{classes - 1}",
            parameter="label",
        )
    if label is not None and not 0 <= label < classes:
        raise InputError(f"got the label {label}, expected 0 to {classes - 1}; change it", parameter="label")
    return {"label": torch.tensor([classes if label is None else label])}
