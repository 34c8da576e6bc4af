"""Encoders in the deployed graph: BGR pixels 0..255 are the input of the first convolution.

Scale and channel order are folded into that convolution's weights. The offset of the normalisation is too, but then
padding must use the value that normalises to zero (127.5), because the original pads normalised images with zeros.
"""

from __future__ import annotations

import copy
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.backbones.encoders import DCEncoder, KLEncoder, TinyEncoder
from aselect_edge.backbones.family import PIXELS, Affine, Encoder, Pixels
from aselect_edge.fold.algebra import attend, convolution, dense, joined
from aselect_edge.fold.dc_encoder import DeployedDC
from aselect_edge.fold.first_convolution import FirstConvolution
from aselect_edge.fold.parts import plain, scaled

UNIT = Affine(1 / 255, 0.0, reverse=True)
"""BGR 0..255 to RGB 0..1, as TAESD expects it."""


@singledispatch
def deployed_encoder(encoder: Encoder) -> nn.Module:
    """The same function of pixels (N, 3, H, W) in its deployed form; each kind of encoder registers its own."""
    raise NotImplementedError(f"got {type(encoder).__name__}, expected an encoder with a registered form")


@deployed_encoder.register
def _(encoder: Pixels) -> nn.Module:
    return encoder


@deployed_encoder.register
def _(encoder: KLEncoder) -> nn.Module:
    return DeployedKL(encoder.encoder, encoder.quant_conv)


@deployed_encoder.register
def _(encoder: DCEncoder) -> nn.Module:
    return DeployedDC(encoder.encoder)


@deployed_encoder.register
def _(encoder: TinyEncoder) -> nn.Module:
    return DeployedTiny(encoder.encoder.layers)


class SpatialAttention(nn.Module):
    """Self-attention over all pixels (N, C, h, w) as separate operations, with q, k and v in one product."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.heads
        self.norm = attention.group_norm
        query, key, value = map(plain, (attention.to_q, attention.to_k, attention.to_v))
        self.project = joined([scaled(query, attention.scale), key, value])
        factor = 1 / attention.rescale_output_factor
        self.out = dense(*scaled(plain(attention.to_out[0]), factor))
        self.skip = factor if attention.residual_connection else 0.0

    def forward(self, x: Tensor, **_time: None) -> Tensor:
        h = self.project(self.norm(x).flatten(2).transpose(1, 2))  # (N, h·w, 3·C)
        q, k, v = h.chunk(3, dim=2)
        h = self.out(attend(q, k, v, self.heads)).transpose(1, 2).unflatten(2, x.shape[2:])
        if self.skip == 1.0:
            return x + h
        return x * self.skip + h if self.skip else h


class DeployedKL(nn.Module):
    """The mean of an `AutoencoderKL`'s posterior: pixels (N, 3, H, W) -> (N, C, h, w).

    The quantising 1x1 convolution is folded into the one before it, of which only the mean's half is kept.
    """

    def __init__(self, encoder: Any, quant: nn.Conv2d | None) -> None:
        super().__init__()
        self.first = FirstConvolution(encoder.conv_in, PIXELS)
        self.down_blocks = copy.deepcopy(encoder.down_blocks)
        self.mid_block = copy.deepcopy(encoder.mid_block)
        for block in (*self.down_blocks, self.mid_block):
            if hasattr(block, "attentions"):  # among the down blocks, only VA-VAE's last has attention
                block.attentions = nn.ModuleList(
                    None if attention is None else SpatialAttention(attention)  # type: ignore[misc] # diffusers' skip
                    for attention in block.attentions
                )
        self.norm, self.activation = copy.deepcopy(encoder.conv_norm_out), copy.deepcopy(encoder.conv_act)
        self.last = _mean_convolution(encoder.conv_out, quant)

    def forward(self, pixels: Tensor) -> Tensor:
        h = self.first(pixels)
        for block in self.down_blocks:
            h = block(h)
        return self.last(self.activation(self.norm(self.mid_block(h))))


class DeployedTiny(nn.Module):
    """A TAESD encoder: plain convolutions, zero padding unchanged, because black is zero in its input."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        conv, *others = layers
        assert isinstance(conv, nn.Conv2d)
        self.first = FirstConvolution(conv, UNIT)
        self.others = copy.deepcopy(nn.Sequential(*others))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.others(self.first(pixels))


def _mean_convolution(conv: nn.Conv2d, quant: nn.Conv2d | None) -> nn.Conv2d:
    weight, bias = plain(conv)
    if quant is not None:
        by, constant = plain(quant)
        mix = by[:, :, 0, 0]
        weight, bias = torch.einsum("oi,ichw->ochw", mix, weight), mix @ bias + constant
    channels = len(weight) // 2
    return convolution(weight[:channels], bias[:channels], stride=conv.stride, padding=conv.padding)
