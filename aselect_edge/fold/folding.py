"""Fold a model of any family."""

from __future__ import annotations

import torch

from aselect_edge.backbones.family import Backbone
from aselect_edge.backbones.registry import find_family, imported
from aselect_edge.fold.spec import Folded, FoldSpec


def fold(model: Backbone, spec: FoldSpec) -> Folded:
    """The model folded and truncated for one use; eval mode, equal to the original up to float32 rounding.

    Raises InputError for a tap, a size or a condition that the model does not have or support.
    """
    model.wanted(spec.taps)
    model.grid(*spec.size)
    model.check_condition(spec.condition)
    implementation = imported(find_family(model.family).fold)
    with torch.no_grad():
        folded: Folded = implementation(model, spec)
    return folded.eval().requires_grad_(False)
