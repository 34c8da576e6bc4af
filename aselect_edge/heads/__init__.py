"""Task heads: one small file each, from tap features to logits.

A head takes one feature map (N, rows, columns, D) per tap and returns logits: (N, C, H/s, W/s) for segmentation,
(N, C) for classification. Each map passes a LayerNorm first, because raw DiT features carry massive activations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aselect_edge.errors import InputError
from aselect_edge.heads.conv import ConvDecoder
from aselect_edge.heads.linear import LinearClassifier, LinearSegmenter
from aselect_edge.records import HeadSpec, Task

__all__ = ["Head", "build_head"]


class Head(nn.Module):
    """LayerNorm per tap, concatenation, then the body of the task."""

    def __init__(self, tap_widths: Sequence[int], body: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in tap_widths)
        self.body = body

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        normed = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
        return self.body(torch.cat(normed, dim=3).permute(0, 3, 1, 2))  # type: ignore[no-any-return]


def build_head(spec: HeadSpec, task: Task, tap_widths: Sequence[int], classes: int) -> Head:
    """A head with fresh weights; raises InputError for a kind that the task does not have."""
    width = sum(tap_widths)
    if task == "cls":
        if spec.kind != "linear":
            raise InputError(f"got the head {spec.kind!r} for classification, expected 'linear'; change --head")
        return Head(tap_widths, LinearClassifier(width, classes))
    if spec.kind == "linear":
        return Head(tap_widths, LinearSegmenter(width, classes))
    return Head(tap_widths, ConvDecoder(width, classes, spec.channels))
