"""Massive activations: channels of a tap that are far larger than the others in every image; they can be set to zero.

The residual streams of Diffusion Transformers have some (DiTF, arXiv 2505.18584). They say little of the image, decide
the statistics of a norm that comes after, and leave INT8 few steps for all other channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aselect_runtime.errors import InputError

RATIO = 100.0
"""How many times the median of all channels' magnitudes a massive channel's is, at least."""
IMAGES = 8
"""So many images tell: massive channels are the same in all of them."""


def magnitude(feature: Tensor) -> Tensor:
    """Summed absolute values (D,) of each channel of a map (N, …, D), float64; those of several maps add up."""
    return feature.detach().abs().double().flatten(0, -2).sum(0).cpu()


def massive_channels(magnitudes: Tensor) -> tuple[int, ...]:
    """The channels above `RATIO` times the median of all (D,)."""
    return tuple(torch.nonzero(magnitudes > RATIO * magnitudes.median()).flatten().tolist())


def check_channels(channels: Sequence[int], width: int) -> tuple[int, ...]:
    """The channels in order, each once; raises InputError for one that a tap of `width` channels does not have."""
    wrong = [channel for channel in channels if not 0 <= channel < width]
    if wrong or len(set(channels)) == width:
        got = f"the channel {wrong[0]}" if wrong else f"all {width} channels"
        raise InputError(
            f"got {got} to discard, expected some of the {width} of the tap, 0 to {width - 1}; change the list",
            parameter="discard_channels",
        )
    return tuple(sorted(set(channels)))


def parse_channels(text: str) -> Literal["auto"] | tuple[int, ...]:
    """`auto`, `none` or channels with commas between them; raises InputError for anything else."""
    if text in ("auto", "none"):
        return "auto" if text == "auto" else ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise InputError(
            f"got {text!r} to discard, expected auto, none or channels such as 12,85; correct it",
            parameter="discard_channels",
        )
    return tuple(map(int, parts))


class Discard(nn.Module):
    """One map (N, rows, columns, D) per tap -> the same with some channels of some taps set to zero."""

    def __init__(self, keep: Sequence[Tensor | None]) -> None:
        """`keep` (D,) of each tap is 0 for channels that are discarded and 1 for others; None discards none."""
        super().__init__()
        for index, mask in enumerate(keep):
            self.register_buffer(f"keep{index}", mask, persistent=False)

    @classmethod
    def of(cls, channels: Sequence[Sequence[int]], width: int) -> Discard:
        """These channels of each tap."""
        return cls([_mask(each, width) if each else None for each in channels])

    @property
    def keep(self) -> list[Tensor | None]:
        """What it was made of."""
        return list(self._buffers.values())

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        keep = self.keep or [None] * len(features)
        return tuple(x if mask is None else x * mask for x, mask in zip(features, keep, strict=True))


def _mask(channels: Sequence[int], width: int) -> Tensor:
    mask = torch.ones(width)
    mask[list(check_channels(channels, width))] = 0
    return mask
