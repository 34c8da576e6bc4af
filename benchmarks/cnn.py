"""A small CNN as the alternative: MobileNetV2 (arXiv 1801.04381), for segmentation with a U-Net decoder.

The encoder is the one in `transformers`, at any width. Two of its settings are meant for converted weights and would
slow training from scratch, so PyTorch's defaults are used: BatchNorm's running means average over more than the last
batch, and convolutions start from Kaiming initialisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MobileNetV2Config, MobileNetV2Model

from aselect_runtime.records import Task

SKIPS = (1, 4, 11)
"""The layers that complete a map of stride 4, 8 and 16; the stem's has stride 2, the last layer's 32."""
DECODER = (96, 64, 48, 32)
"""Channels at strides 16, 8, 4 and 2, at width 1."""


def build_cnn(task: Task, classes: int, width: float) -> nn.Module:
    """Pixels (N, 3, H, W), BGR, 0..255 -> logits, (N, C, H/2, W/2) or (N, C); fresh weights from torch's seed."""
    model = UNet(classes, width) if task == "seg" else Classifier(classes, width)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model


class UNet(nn.Module):
    """MobileNetV2 and a decoder that reads its maps of every stride."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        self.encoder = _encoder(width)
        self.encoder.conv_1x1 = nn.Identity()  # only needed by a classifier
        seen = [self.encoder.conv_stem, *(self.encoder.layer[index] for index in SKIPS), self.encoder.layer[-1]]
        *skips, deepest = [part.reduce_1x1.convolution.out_channels for part in seen]
        outputs = [_rounded(channels * width) for channels in DECODER]
        self.decoder = nn.ModuleList(
            nn.Sequential(*_conv(below + skip, channels), *_conv(channels, channels))
            for below, skip, channels in zip([deepest, *outputs], reversed(skips), outputs, strict=False)
        )
        self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(outputs[-1], classes, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.encoder.conv_stem(pixels / 127.5 - 1)
        skips = [x]
        for index, layer in enumerate(self.encoder.layer):
            x = layer(x)
            if index in SKIPS:
                skips.append(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], dim=1))
        return self.classify(x)


class Classifier(nn.Module):
    """MobileNetV2, the mean over its last map, and one linear layer."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        self.encoder = _encoder(width)
        self.classify = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(self.encoder.conv_1x1.convolution.out_channels, classes)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.encoder(pixels / 127.5 - 1).last_hidden_state  # (N, D, H/32, W/32)
        return self.classify(features.mean(dim=(2, 3)))


def _encoder(width: float) -> MobileNetV2Model:
    # Channels in multiples of four, so that a width can be found for any latency.
    config = MobileNetV2Config(depth_multiplier=width, depth_divisible_by=4, tf_padding=False)
    return MobileNetV2Model(config, add_pooling_layer=False)


def _conv(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def _rounded(channels: float) -> int:
    return max(4, round(channels / 4) * 4)
