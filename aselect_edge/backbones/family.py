"""What a family of Diffusion Transformers has in common: one file beside this one implements it for each family.

Shapes: N images, C channels of the model's own input (RGB pixels in -1..1, or scaled latents), h x w its size,
T = rows·columns tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from aselect_edge.errors import InputError
from aselect_edge.records import COMPONENTS, Component, Noise, Tap

Condition = Mapping[str, Tensor]
"""What a model is conditioned on besides the timestep, each tensor for one image (1, …): a class label, or the
embeddings of the empty prompt. Fixed once per deployment; saved as safetensors."""


@dataclass(frozen=True)
class Affine:
    """How what enters the deployed graph becomes the model's x0: gain · value + offset, channels reversed or not."""

    gain: float = 1.0
    offset: float = 0.0
    reverse: bool = False


PIXELS = Affine(1 / 127.5, -1.0, reverse=True)
"""BGR 0..255, as cameras deliver, to RGB -1..1."""


class Folded(nn.Module):
    """A folded, truncated backbone: values (N, C, h, w) -> one feature map (N, rows, columns, D) per tap.

    Noise, condition and timestep are constants inside; `blocks` holds what is left of each block.
    """

    taps: tuple[Tap, ...]
    grid: tuple[int, int]
    blocks: nn.ModuleList


class Backbone(nn.Module, ABC):
    """A whole, unfolded model of one family: the reference that everything deployed is held against."""

    family: ClassVar[str]
    components: ClassVar[tuple[Component, ...]] = COMPONENTS

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many blocks there are to tap."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D, channels of a token and of every component."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """C, channels of the input."""

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of an input of this size; raises InputError for one the family cannot take."""

    @abstractmethod
    def features(
        self, x: Tensor, timestep: Tensor, condition: Condition, taps: Iterable[Tap] | None = None
    ) -> dict[Tap, Tensor]:
        """Components (N, T, D) of the image tokens at the wanted taps (all by default) of x (N, C, h, w).

        `timestep` (N,) is what the embedder is fed. Runs no block beyond the deepest tap.
        """

    @abstractmethod
    def fold(
        self,
        noise: Noise,
        taps: Sequence[Tap],
        size: tuple[int, int],
        eps: Tensor,
        condition: Condition,
        affine: Affine,
    ) -> Folded:
        """Fold and truncate for values of `size` (h, w): x = alpha · affine(value) + sigma · eps, eps (1, C, h, w).

        Exact up to float32 rounding.
        """

    def wanted(self, taps: Iterable[Tap] | None) -> frozenset[Tap]:
        """The taps as a set, all of them for None; raises InputError for one that this model does not have."""
        if taps is None:
            return frozenset(Tap(block=b, component=c) for b in range(self.depth) for c in self.components)
        chosen = frozenset(taps)
        for tap in sorted(chosen, key=str):
            if tap.block >= self.depth:
                raise InputError(f"got a tap at block {tap.block}, expected 0 to {self.depth - 1}; choose another tap")
            if tap.component not in self.components:
                raise InputError(
                    f"got the component {tap.component}, expected one that {self.family} has: "
                    f"{', '.join(self.components)}; choose another tap"
                )
        return chosen


class Encoder(nn.Module, ABC):
    """An autoencoder's encoder, or the identity for models on pixels: BGR pixels (N, 3, H, W) 0..255 -> values.

    The values (N, C, H/stride, W/stride) become x0 through `affine`; deterministic (the mean, no sampling).
    """

    stride: int
    channels: int
    affine: Affine

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the values of a frame; raises InputError where the stride does not divide it."""
        if height % self.stride or width % self.stride or not height or not width:
            raise InputError(
                f"got frames of {height}x{width}, expected multiples of the autoencoder's stride {self.stride}; "
                "change --imgsz"
            )
        return height // self.stride, width // self.stride

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) BGR float 0..255 -> values (N, C, H/stride, W/stride)."""

    def x0(self, pixels: Tensor) -> Tensor:
        """The model's clean input of a batch of pixels."""
        values = self(pixels)
        values = values.flip(1) if self.affine.reverse else values
        return values * self.affine.gain + self.affine.offset  # type: ignore[no-any-return]


class Pixels(Encoder):
    """No autoencoder: the model takes pixels."""

    stride, channels, affine = 1, 3, PIXELS

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


def expand(condition: Condition, count: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """The condition of one image, for a batch of `count`."""
    return {name: value.to(device).expand(count, *value.shape[1:]) for name, value in condition.items()}
