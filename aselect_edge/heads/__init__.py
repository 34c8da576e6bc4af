"""Task heads: one module each, from tap features to logits.

A head takes one feature map (N, rows, columns, D) per tap and returns logits: (N, C, H/s, W/s) for segmentation,
(N, C) for classification. A LayerNorm is applied to each map, because raw DiT features contain massive activations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aselect_edge.heads.attention import AttentionClassifier
from aselect_edge.heads.conv import ConvDecoder
from aselect_edge.heads.edge import EdgeDecoder
from aselect_edge.heads.linear import LinearClassifier, LinearSegmenter
from aselect_runtime.errors import InputError
from aselect_runtime.records import HEAD_KINDS, HeadSpec, Tap, Task

__all__ = ["Head", "build_head", "taps_for"]

NARROWEST = {"linear": 1, "attention": 1, "conv": 4, "edge": 8}
"""The smallest number of `channels` that leaves one in the last stage of a head."""


class Head(nn.Module):
    """LayerNorm per tap, concatenation, then the body for the task."""

    def __init__(self, tap_widths: Sequence[int], body: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in tap_widths)
        self.body = body

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.body(self.normed(features))

    def normed(self, features: Sequence[Tensor]) -> Tensor:
        """The normalised maps, concatenated to one (N, D, rows, columns)."""
        maps = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
        return torch.cat(maps, dim=3).permute(0, 3, 1, 2)


class EdgeHead(Head):
    """A head whose first tap is shallow and is used at a finer grid than the others.

    The shallow map has no LayerNorm: before the first block there are no massive activations yet, and the brightness
    and contrast of a patch relative to its neighbours are what marks an edge.
    """

    def __init__(self, tap_widths: Sequence[int], body: EdgeDecoder) -> None:
        super().__init__(tap_widths[1:], body)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        shallow, *deep = features
        return self.body(self.normed(deep), shallow.permute(0, 3, 1, 2))


def check_head(spec: HeadSpec, task: Task) -> None:
    """Raise InputError for a head kind that the task does not have."""
    if spec.kind not in HEAD_KINDS[task]:
        called = {"cls": "classification", "seg": "segmentation"}[task]
        raise InputError(
            f"got the head {spec.kind!r} for {called}, expected {' or '.join(HEAD_KINDS[task])}; change it",
            parameter="head",
        )


def build_head(spec: HeadSpec, task: Task, tap_widths: Sequence[int], classes: int) -> Head:
    """A head with fresh weights for the taps that `taps_for` returns.

    Raises InputError for a kind that the task does not have, too few channels, or an edge head without a shallow tap.
    """
    check_head(spec, task)
    if spec.channels < NARROWEST[spec.kind]:
        raise InputError(
            f"got {spec.channels} channels for the head {spec.kind!r}, expected at least {NARROWEST[spec.kind]}; "
            "increase the channels"
        )
    if spec.kind == "edge":
        if len(tap_widths) < 2:
            raise InputError(
                "got one tap for the head 'edge', expected a shallow one before the others; give two taps, such as "
                "0.hidden,3.query"
            )
        return EdgeHead(tap_widths, EdgeDecoder(sum(tap_widths[1:]), tap_widths[0], classes, spec.channels))
    width = sum(tap_widths)
    if spec.kind == "conv":
        return Head(tap_widths, ConvDecoder(width, classes, spec.channels))
    if spec.kind == "attention":
        return Head(tap_widths, AttentionClassifier(width, classes, spec.channels))
    return Head(tap_widths, (LinearSegmenter if task == "seg" else LinearClassifier)(width, classes))


def taps_for(spec: HeadSpec, taps: Sequence[Tap]) -> tuple[Tap, ...]:
    """The taps that a head reads, in its order, for the requested `taps`.

    The edge head's first tap is in block 0: one of the requested taps, or else `0.hidden`, which costs nothing. Raises
    InputError if no deeper tap remains.
    """
    if spec.kind != "edge":
        return tuple(taps)
    shallow = next((tap for tap in taps if tap.block == 0), None) if len(taps) > 1 else None
    shallow = shallow or Tap(block=0, component="hidden")
    deep = tuple(tap for tap in taps if tap != shallow)
    if not deep:
        raise InputError(
            f"got only the tap {shallow} for the head 'edge', expected a deeper one as well; give the taps "
            f"{shallow},<block>.<component> or choose another head",
            parameter=("taps", "head"),
        )
    return shallow, *deep
