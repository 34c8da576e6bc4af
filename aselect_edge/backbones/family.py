"""The interface that every family of Diffusion Transformers implements, each in its own module.

Shapes: N images, C channels of the model's own input (RGB pixels in -1..1, or scaled latents), h x w its size,
T = rows·columns tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from aselect_edge.backbones.noise import Schedule
from aselect_edge.backbones.store import WeightStore, return_freed_memory
from aselect_runtime.errors import InputError
from aselect_runtime.records import COMPONENTS, Component, Tap

Condition = Mapping[str, Tensor]
"""The condition of a model in addition to the timestep, each tensor for one image (1, …): a class label, or the
embeddings of the empty prompt. Fixed once per deployment; saved as safetensors."""


@dataclass(frozen=True)
class Affine:
    """How the input of the deployed graph becomes the model's x0: gain · value + offset, channels reversed or not.

    Gain and offset are one number, or one for each channel of x0.
    """

    gain: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    reverse: bool = False

    @classmethod
    def normalising(cls, mean: Sequence[float], std: Sequence[float]) -> Affine:
        """x0 = (value - mean) / std, channel by channel."""
        return cls(tuple(1 / s for s in std), tuple(-m / s for m, s in zip(mean, std, strict=True)))

    def columns(self) -> tuple[Tensor, Tensor]:
        """Gain and offset as float64 (C or 1, 1, 1)."""
        gain, offset = (torch.tensor(part, dtype=torch.float64).reshape(-1, 1, 1) for part in (self.gain, self.offset))
        return gain, offset


PIXELS = Affine(1 / 127.5, -1.0, reverse=True)
"""BGR 0..255, as cameras deliver it, to RGB -1..1."""


class Backbone(nn.Module, ABC):
    """A whole, unfolded model of one family: the reference that everything deployed is compared with.

    It is built on the meta device and then loaded, so it holds parameters and no buffers. A lean model keeps its
    `streamed` parts on the meta device: `walk` and the fold load those inside `held`, block by block.
    """

    family: ClassVar[str]
    """The family's name in records and options."""
    components: ClassVar[tuple[Component, ...]] = COMPONENTS
    streamed: ClassVar[tuple[str, ...]] = ("blocks.",)
    """Prefixes of the parameters that a lean model leaves on disk until they are `held`."""
    prompted: ClassVar[bool] = False
    """Whether the condition is a prompt, computed by text encoders."""
    unread: ClassVar[tuple[str, ...]] = ()
    """Patterns of names that a checkpoint may hold and no tap depends on: an output layer that is not read."""
    store: WeightStore | None = None
    """Where a lean model reads its streamed weights; None if all weights are in memory."""

    @classmethod
    @abstractmethod
    def from_json(cls, config: dict[str, Any], depth: int | None = None) -> Backbone:
        """A model without weights, with the shapes of diffusers' `config.json`; raises InputError for invalid values.

        With `depth`, only the first so many blocks exist, and no layer after them.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The configuration that `from_json` reads, with `_class_name`; of the whole model also if this one is cut."""

    @abstractmethod
    def keys(self) -> dict[str, str]:
        """Name of every parameter of this module -> its name in diffusers' state dict."""

    def tables(self) -> dict[str, Tensor]:
        """Tensors that this class computes and a checkpoint may also hold, by checkpoint name; they must be equal."""
        return {}

    @classmethod
    @abstractmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        """The meaning of timesteps: from diffusers' `scheduler_config.json`, or the published default for None."""

    def default_schedule(self) -> Schedule:
        """The published model's schedule, used when the source has no scheduler."""
        return self.schedule(None)

    @property
    def affine(self) -> Affine | None:
        """How an autoencoder's values become x0, if the model defines it; None if its autoencoder defines it."""
        return None

    @abstractmethod
    def condition(self, label: int | None = None, folder: Path | None = None) -> Condition:
        """The fixed condition: a class (the null class for None), or the empty prompt.

        The prompt's embeddings come from the text encoders of the pipeline in `folder`. Raises InputError if the model
        has no such label, or needs one.
        """

    @property
    def embedding(self) -> nn.Module:
        """The convolution whose output (N, D, rows, columns) is the tokens, before positions are added."""
        return self.get_submodule("patch_embed")

    @property
    @abstractmethod
    def side(self) -> int:
        """Height and width of the inputs that the model was trained on."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of blocks that can be tapped."""

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
        """Token rows and columns of an input of this size; raises InputError for a size the family cannot process."""

    @abstractmethod
    def walk(
        self, x: Tensor, timestep: Tensor, condition: Condition, taps: Iterable[Tap] | None = None
    ) -> Iterator[tuple[Tap, Tensor]]:
        """Yield the components (N, T, D) of the image tokens at the wanted taps (all by default) of x (N, C, h, w).

        `timestep` (N,) is the value that the embedder is fed. Runs no block beyond the deepest tap, and holds the
        components of at most one block.
        """

    def features(
        self, x: Tensor, timestep: Tensor, condition: Condition, taps: Iterable[Tap] | None = None
    ) -> dict[Tap, Tensor]:
        """All components that `walk` yields, by tap."""
        return dict(self.walk(x, timestep, condition, taps))

    def check_condition(self, condition: Condition) -> None:
        """Raise InputError for a condition that does not belong to this model."""

    @contextmanager
    def held(self, *parts: nn.Module) -> Iterator[None]:
        """Context in which all parameters of `parts` are in memory; unloaded afterwards. No effect if not lean."""
        if self.store is None:
            yield
            return
        prefixes = {module: name for name, module in self.named_modules()}
        missing = {
            f"{prefixes[module]}.{leaf}": (module, leaf, parameter)
            for part in parts
            for module in part.modules()
            for leaf, parameter in module.named_parameters(recurse=False)
            if parameter.is_meta
        }
        try:
            for name, tensor in self.store.read(missing):
                module, leaf, parameter = missing[name]
                setattr(module, leaf, nn.Parameter(tensor.to(parameter.dtype), requires_grad=False))
            yield
        finally:
            for module, leaf, parameter in missing.values():
                setattr(module, leaf, parameter)
            return_freed_memory()

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


def of_block(index: int, taps: Iterable[Tap]) -> frozenset[Component]:
    """The components that `taps` read of a block."""
    return frozenset(tap.component for tap in taps if tap.block == index)


class Encoder(nn.Module, ABC):
    """An autoencoder's encoder, or the identity for pixel-space models: BGR pixels (N, 3, H, W) 0..255 -> values.

    The values (N, C, H/stride, W/stride) become x0 through `affine`; deterministic (the mean, no sampling).
    """

    stride: int
    channels: int
    affine: Affine

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the values of a frame; raises InputError if they are not multiples of the stride."""
        if height % self.stride or width % self.stride or not height or not width:
            raise InputError(
                f"got frames of {height}x{width}, expected multiples of the autoencoder's stride {self.stride}; "
                "change the input size",
                parameter="imgsz",
            )
        return height // self.stride, width // self.stride

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) BGR float 0..255 -> values (N, C, H/stride, W/stride)."""

    def x0(self, pixels: Tensor) -> Tensor:
        """The model's clean input of a batch of pixels."""
        values = self(pixels)
        values = values.flip(1) if self.affine.reverse else values
        gain, offset = (part.to(values) for part in self.affine.columns())
        return values * gain + offset


class Pixels(Encoder):
    """No autoencoder: the model's input is pixels."""

    stride, channels, affine = 1, 3, PIXELS

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


def expand(condition: Condition, count: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """The condition of one image, repeated for a batch of `count`."""
    return {name: value.to(device).expand(count, *value.shape[1:]) for name, value in condition.items()}
