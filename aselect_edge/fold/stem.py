"""The distilled encoder: a small convolutional network from a frame straight to a backbone's tokens.

It stands in for autoencoder and patch embedding, and gives what the folded patch embedding gives before the positions
are added: positions, noise and biases stay exact constants of the fold, for every size of frame.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aselect_edge.backbones.family import Affine
from aselect_edge.fold.first_convolution import FirstConvolution
from aselect_edge.fold.fusing import fused
from aselect_edge.fold.spec import Folded
from aselect_runtime.records import EncoderCost, StemSpec

CENTRED = Affine(1 / 127.5, -1.0)
"""BGR 0..255 to -1..1; the stem learns the order of the channels."""
NARROWEST = 16
"""Channels of the first stages, at least."""


class Stem(nn.Module):
    """Pixels (N, 3, H, W) BGR float 0..255 -> tokens (N, D, H/stride, W/stride), the positions not yet added."""

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: StemSpec) -> None:
        super().__init__()
        self.spec = spec
        halvings = (spec.stride & -spec.stride).bit_length() - 1
        rest = spec.stride >> halvings
        count = max(1, halvings)
        widths = [max(min(NARROWEST, spec.width), spec.width >> (count - 1 - index)) for index in range(count)]
        widths[-1] = spec.width
        step = 2 if halvings else 1
        self.stages = nn.Sequential(
            *(_stage(inputs, outputs, step) for inputs, outputs in zip([3, *widths[:-1]], widths, strict=True))
        )
        self.blocks = nn.Sequential(*(Block(spec.width) for _ in range(spec.blocks)))
        self.last = nn.Conv2d(spec.width, spec.outputs, rest, rest)
        self.register_buffer("scale", torch.ones(spec.outputs))
        self.register_buffer("shift", torch.zeros(spec.outputs))

    def centre(self, mean: Tensor, deviation: Tensor) -> None:
        """Let the network learn tokens of mean 0 and deviation 1; both (D,) are of the tokens as they are."""
        self.shift.copy_(mean)
        self.scale.copy_(deviation)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.last(self.blocks(self.stages(pixels / 127.5 - 1)))
        return tokens * self.scale[:, None, None] + self.shift[:, None, None]

    @torch.no_grad()
    def deployed(self) -> nn.Module:
        """The same function in eval mode, with norms, scales and the range of the pixels in the convolutions."""
        plain = fused(self)
        assert isinstance(plain, Stem)
        first = plain.stages[0]
        assert isinstance(first, nn.Sequential)
        first[0] = FirstConvolution(first[0], CENTRED)  # type: ignore[arg-type]
        last, scale = plain.last, plain.scale.double()
        bias = last.bias.double() if last.bias is not None else torch.zeros_like(scale)
        last.weight = nn.Parameter((last.weight.double() * scale[:, None, None, None]).float())
        last.bias = nn.Parameter((bias * scale + plain.shift.double()).float())
        parts = OrderedDict[str, nn.Module](stages=plain.stages, blocks=plain.blocks, last=last)
        return nn.Sequential(parts).eval().requires_grad_(False)


class Block(nn.Module):
    """A residual depthwise-separable block: five by five pixels of each channel, then all channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 2 * width, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _stage(inputs: int, outputs: int, step: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, step, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def detached_embedding(folded: Folded) -> nn.Module:
    """Take the convolution of the patch embedding, values -> tokens (N, D, rows, columns), out of a folded backbone.

    What is left is a function of such tokens.
    """
    embedding = folded.get_submodule("embed.conv")
    folded.set_submodule("embed.conv", nn.Identity())
    return embedding


def encoder_cost(encoder: nn.Module, size: tuple[int, int]) -> EncoderCost:
    """Parameters of a module that takes pixels, and the products of one frame of `size`; nothing is computed."""
    blank = copy.deepcopy(encoder).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        blank(torch.empty(1, 3, *size, device="meta"))
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return EncoderCost(parameters=parameters, macs=counter.get_total_flops() // 2)
