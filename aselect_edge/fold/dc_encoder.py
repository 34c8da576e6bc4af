"""`AutoencoderDC`'s encoder as it joins the deployed graph: residual blocks, and linear attention in its last stages.

The shortcut of its last layer, a mean over groups of channels, is in that layer's weights. Norms are over the channels
where they lie, without moving them to the last axis.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones.family import PIXELS
from aselect_edge.fold.algebra import convolution
from aselect_edge.fold.first_convolution import FirstConvolution
from aselect_edge.fold.linear_attention import GatedConvolution, attend_linearly


class DeployedDC(nn.Module):
    """Pixels (N, 3, H, W) -> latents (N, C, h, w)."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        first = encoder.conv_in
        self.first = FirstConvolution(first if isinstance(first, nn.Conv2d) else first.conv, PIXELS)
        self.unshuffle = getattr(first, "factor", 1) if getattr(first, "downsample", False) else 1
        self.blocks = nn.Sequential(*(_deployed(block) for stage in encoder.down_blocks for block in stage))
        self.last = _last(encoder)

    def forward(self, pixels: Tensor) -> Tensor:
        h = self.first(pixels)
        if self.unshuffle > 1:
            h = F.pixel_unshuffle(h, self.unshuffle)
        return self.last(self.blocks(h))


def _deployed(block: Any) -> nn.Module:
    if hasattr(block, "attn"):
        return nn.Sequential(MultiscaleAttention(block.attn), GatedBlock(block.conv_out))
    return ResidualBlock(block) if hasattr(block, "conv1") else Downsampling(block)


def _last(encoder: Any) -> nn.Conv2d:
    """The last convolution, with the mean over groups of channels that is added to it."""
    conv: nn.Conv2d = copy.deepcopy(encoder.conv_out)
    if encoder.out_shortcut:
        size = encoder.out_shortcut_average_group_size
        groups = torch.arange(conv.in_channels) // size == torch.arange(conv.out_channels)[:, None]
        weight = conv.weight.detach().double()
        weight[:, :, 1, 1] += groups.double() / size
        conv.weight = nn.Parameter(weight.float())
    return conv


class ChannelNorm(nn.Module):
    """diffusers' RMSNorm over the channels of x (N, C, h, w): x / sqrt(mean(x^2) + eps) · weight + bias."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = (
            nn.Parameter(part.detach().clone()[:, None, None]) for part in (norm.weight, norm.bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        # In float32 also where x is not: squares of large activations leave FP16's range.
        root = (x.float().square().mean(dim=1, keepdim=True) + self.eps).sqrt()
        return x / root.to(x.dtype) * self.weight + self.bias


class ResidualBlock(nn.Module):
    """x + norm(conv(silu(conv(x))))."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = copy.deepcopy(block.conv1), copy.deepcopy(block.conv2)
        self.activation, self.norm = copy.deepcopy(block.nonlinearity), ChannelNorm(block.norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.activation(self.conv1(x))))


class Downsampling(nn.Module):
    """(N, C, h, w) -> (N, C_out, h/2, w/2): a convolution, and the mean over groups of the pixels that become one."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv, self.group = copy.deepcopy(block.conv), block.group_size
        self.factor, self.unshuffles, self.shortcut = block.factor, block.downsample, block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.unshuffles:
            h = F.pixel_unshuffle(h, self.factor)
        if not self.shortcut:
            return h
        return h + F.pixel_unshuffle(x, self.factor).unflatten(1, (-1, self.group)).mean(dim=2)


class GatedBlock(nn.Module):
    """x + norm(gated convolution of x)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.convolutions, self.norm = GatedConvolution(block), ChannelNorm(block.norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.convolutions(x))


class MultiscaleAttention(nn.Module):
    """x + norm(linear attention of x), whose heads see queries, keys and values also as depthwise convolutions' sums.

    Queries, keys and values are one product. As in diffusers, a head takes the next 3·d channels of all of them.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        layers = (attention.to_q, attention.to_k, attention.to_v)
        self.project = convolution(torch.cat([layer.weight.detach() for layer in layers])[:, :, None, None])
        self.scales = nn.ModuleList(
            nn.Sequential(copy.deepcopy(scale.proj_in), copy.deepcopy(scale.proj_out))
            for scale in attention.to_qkv_multiscale
        )
        self.channels = attention.attention_head_dim
        self.out, self.norm = (
            convolution(attention.to_out.weight.detach()[:, :, None, None]),
            ChannelNorm(attention.norm_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.project(x)
        h = torch.cat([h, *(scale(h) for scale in self.scales)], dim=1) if len(self.scales) else h
        heads = h.flatten(2).unflatten(1, (-1, 3 * self.channels)).transpose(2, 3)  # (N, heads, T, 3·d)
        mixed = attend_linearly(*heads.chunk(3, dim=3)).transpose(2, 3)  # (N, heads, d, T)
        return x + self.norm(self.out(mixed.flatten(1, 2).unflatten(2, x.shape[2:])))
