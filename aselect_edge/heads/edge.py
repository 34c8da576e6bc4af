"""A light decoder that uses shallow features of the same forward pass to locate edges.

Deep tokens encode the content of their patch, but hardly the position within it. The shallow map, which before the
first block is the patch embedding, still holds the patch's pixels: 1x1 convolutions select what each stage needs, and a
pixel shuffle moves it to the stage's grid, which costs less than convolving there. (A skip connection as in U-Net,
Ronneberger et al., arXiv 1505.04597, from a backbone that has only one resolution.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aselect_edge.heads.conv import Residual, convolution


class Stage(nn.Module):
    """Twice the resolution, joined with the shallow map.

    (N, inputs, h, w) and (N, shallow, h', w') -> (N, outputs, 2h, 2w). `scale` is 2h / h', and `detail` the number of
    channels that the shallow map has at the finer grid.
    """

    def __init__(self, inputs: int, shallow: int, detail: int, outputs: int, scale: int) -> None:
        super().__init__()
        self.expand = convolution(inputs, 4 * outputs, kernel=1)
        self.shuffle = nn.PixelShuffle(2)
        self.pick = convolution(shallow, detail * scale**2, kernel=1)
        self.lay = nn.PixelShuffle(scale)
        self.join = convolution(outputs + detail, outputs, kernel=1)
        self.refine = Residual(outputs)

    def forward(self, x: Tensor, shallow: Tensor) -> Tensor:
        joined = torch.cat([self.shuffle(self.expand(x)), self.lay(self.pick(shallow))], dim=1)
        return self.refine(self.join(joined))


class EdgeDecoder(nn.Module):
    """Deep (N, D, h, w) and shallow (N, S, h, w) -> logits (N, C, 4h, 4w).

    One residual block on the token grid instead of the two of `ConvDecoder`, which offsets the cost of the shallow map.
    """

    def __init__(self, width: int, shallow: int, classes: int, channels: int) -> None:
        super().__init__()
        half, quarter, eighth = channels // 2, channels // 4, channels // 8
        self.tokens = nn.Sequential(convolution(width, channels, kernel=1), Residual(channels))
        self.coarse = Stage(channels, shallow, quarter, half, scale=2)
        self.fine = Stage(half, shallow, eighth, quarter, scale=4)
        self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(quarter, classes, 1))

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        x = self.coarse(self.tokens(deep), shallow)
        return self.classify(self.fine(x, shallow))
