"""The convolution that takes the camera's pixels: scale and channel order of the normalisation are in its weights.

The shift of the normalisation is too, but a padded convolution pads with what normalises to zero (127.5), where the
original pads normalised images with zeros.
"""

from __future__ import annotations

from torch import Tensor, nn

from aselect_edge.backbones.family import Affine
from aselect_edge.fold.algebra import convolution
from aselect_edge.fold.parts import plain


class FirstConvolution(nn.Module):
    """conv(gain · pixels + offset), exactly, on pixels: zeros of the original's padding become `pad`."""

    def __init__(self, conv: nn.Conv2d, affine: Affine) -> None:
        super().__init__()
        weight, bias = plain(conv)
        assert isinstance(conv.padding, tuple)
        assert isinstance(affine.gain, float)
        assert isinstance(affine.offset, float)
        self.pad, (self.rows, self.columns) = -affine.offset / affine.gain, conv.padding
        folded = weight * affine.gain
        self.conv = convolution(
            folded.flip(1) if affine.reverse else folded,
            bias + affine.offset * weight.sum((1, 2, 3)),
            stride=conv.stride,
            padding=(0, 0) if self.pad else conv.padding,
        )

    def forward(self, pixels: Tensor) -> Tensor:
        if self.pad:
            sides = (self.columns, self.columns, self.rows, self.rows)
            pixels = nn.functional.pad(pixels, sides, value=self.pad)
        return self.conv(pixels)
