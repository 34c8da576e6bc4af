"""A light convolutional decoder for segmentation: two residual blocks on the token grid, then two upsampling steps.

Upsampling is sub-pixel (Shi et al., arXiv 1609.05158): a token holds a complete patch, so detail finer than the
token grid is in its channels, and a pixel shuffle recovers it, which interpolation cannot. BatchNorm costs nothing in
deployment, because it is folded into the convolution before it.
"""

from __future__ import annotations

from torch import Tensor, nn


def convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the grid size is unchanged."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    """x + two 3x3 convolutions of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(convolution(channels, channels), convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convs(x)


class Upsample(nn.Module):
    """Twice the resolution: (N, inputs, h, w) -> (N, outputs, 2h, 2w)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.expand = convolution(inputs, 4 * outputs, kernel=1)
        self.shuffle = nn.PixelShuffle(2)
        self.refine = Residual(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.refine(self.shuffle(self.expand(x)))


class ConvDecoder(nn.Module):
    """(N, D, h, w) -> logits (N, C, 4h, 4w)."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(width, channels, kernel=1),
            Residual(channels),
            Residual(channels),
            Upsample(channels, channels // 2),
            Upsample(channels // 2, channels // 4),
            nn.Dropout2d(0.1),
            nn.Conv2d(channels // 4, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
