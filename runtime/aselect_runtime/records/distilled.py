"""The distilled encoder of a bundle, and what an export says about an encoder that stands in for the full one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.records.base import Finite, Frozen
from aselect_runtime.records.data import DataFingerprint

EncoderKind = Literal["full", "tiny", "distilled"]
"""What turns frames into tokens: what the model was trained with, AutoencoderTiny, or the bundle's distilled stem."""

Share = Annotated[float, Field(ge=0, le=1)]


class StemSpec(Frozen):
    """The shape of a convolutional stem that maps a frame to a backbone's tokens."""

    stride: Annotated[int, Field(ge=1, le=1024)]
    """Pixels per token along a side: the autoencoder's stride times the patch."""
    outputs: Annotated[int, Field(ge=1, le=65536)]
    """Channels of a token, the backbone's width."""
    width: Annotated[int, Field(ge=8, le=4096)] = 256
    """Channels of the residual blocks."""
    blocks: Annotated[int, Field(ge=0, le=64)] = 4
    """Residual depthwise-separable blocks on the token grid."""


class EncoderCost(Frozen):
    """What it takes to get from one frame to tokens."""

    parameters: Annotated[int, Field(ge=0)]
    macs: Annotated[int, Field(ge=0)]
    """Multiply-accumulate operations for one frame of the model's size."""


class Distilled(Frozen):
    """A stem that learned the tokens of autoencoder and patch embedding, and the head that goes with it."""

    stem: StemSpec
    file: str = "distilled.safetensors"
    """The file in the bundle with the weights of both."""
    replaces: str
    data: DataFingerprint
    """The images that it learned from and was validated on; no labels are read of them."""
    agreement: Share
    """Share of pixels (segmentation) or images (classification) of the held-out images with the full model's class."""
    explained: Annotated[Finite, Field(le=1)]
    """Share of the variance of the taps' features, channel by channel, that the stem explains on those images."""
    samples: Annotated[int, Field(ge=1)]
    labelled: bool = False
    """Whether the head was trained on labels afterwards."""
    full: EncoderCost
    cost: EncoderCost


class Replacement(Frozen):
    """An encoder that was deployed in place of the full one, and what that costs in accuracy."""

    encoder: Literal["tiny", "distilled"]
    replaced: str
    by: str
    metric: Literal["miou", "top1", "agreement"]
    images: Annotated[int, Field(ge=1)]
    """How many the metric was measured on."""
    full: Finite
    deployed: Finite
    max_drop: Finite
    full_cost: EncoderCost
    cost: EncoderCost
