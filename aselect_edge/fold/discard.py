"""Channels of a tap that are set to zero: folded into the layer that makes them, where it makes nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.fold.parts import PROJECTIONS, STAGE
from aselect_edge.fold.spec import Folded
from aselect_runtime.records import Component


@torch.no_grad()
def fold_discarded(folded: Folded, keep: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Fold masks (D,), one per tap, None for none, into the model's last layers; the masks that could not be.

    A tap that the model goes on from, and the residual stream (`hidden`), have no layer of their own.
    """
    left: list[Tensor | None] = []
    for tap, mask in zip(folded.taps, keep or [None] * len(folded.taps), strict=True):
        done = mask is not None and _fold(folded.blocks[tap.block], tap.component, mask)
        left.append(None if done else mask)
    return left


def _fold(block: Any, component: Component, mask: Tensor) -> bool:
    if component == "adaln":  # what is computed from it has this scale and shift in its own weights
        block.scale1 *= mask
        block.shift1 *= mask
        return True
    if block.end != STAGE[component]:
        return False
    if component in PROJECTIONS:
        width, at = len(mask), block.projections.index(component)
        _rows(block.project, slice(at * width, (at + 1) * width), mask)
    elif component == "mlp":
        _rows(_last_of_mlp(block), slice(None), mask)
    elif component in ("attn", "attn_gated") and not {"attn", "attn_gated"} <= block.wanted:
        _rows(block.out, slice(None), mask)
    else:
        return False
    return True


def _last_of_mlp(block: Any) -> nn.Linear | nn.Conv2d:
    """The layer that an MLP ends with: of DiT's blocks, of the other families' MLP, or of Sana's convolutions."""
    mlp = getattr(block, "mlp", None)
    layer: nn.Linear | nn.Conv2d = block.mlp_out if mlp is None else getattr(mlp, "convolutions", mlp).narrow
    return layer


def _rows(layer: nn.Linear | nn.Conv2d, rows: slice, mask: Tensor) -> None:
    layer.weight[rows] *= mask.view(-1, *[1] * (layer.weight.ndim - 1))
    if layer.bias is not None:
        layer.bias[rows] *= mask
