"""Linear heads, which measure the information in the features themselves."""

from __future__ import annotations

from torch import Tensor, nn


class LinearSegmenter(nn.Module):
    """One 1x1 convolution: (N, D, h, w) -> logits (N, C, h, w), at the stride of the tokens."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(x)


class LinearClassifier(nn.Module):
    """Mean over tokens, then one linear layer: (N, D, h, w) -> logits (N, C)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(x.mean(dim=(2, 3)))
