"""A backbone that was loaded, whatever it came as."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from aselect_edge.backbones.family import Backbone, Condition, Encoder
from aselect_edge.backbones.noise import Schedule


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone ready to be scanned or folded: the model, its encoder and its condition."""

    model: Backbone
    encoder: Encoder
    condition: Condition
    schedule: Schedule
    source: str
    revision: str | None = None
    vae: str | None = None
    """Where the encoder came from, if it did not come with the model."""
    label: int | None = None
    """The class of the condition; None for no class, or for a family without classes."""

    def x0(self, pixels: Tensor) -> Tensor:
        """The model's clean input (N, C, h, w) of pixels (N, 3, H, W), BGR, float 0..255."""
        return self.encoder.x0(pixels)

    @property
    def side(self) -> int:
        """Height and width of the frames that the model was trained on."""
        return self.model.side * self.encoder.stride

    def grid(self, imgsz: tuple[int, int]) -> tuple[int, int]:
        """Token rows and columns of frames of this size; raises InputError for an unsupported size."""
        return self.model.grid(*self.encoder.size(*imgsz))
