"""SiT (arXiv 2401.08740): DiT's architecture on the straight path, x = t·x0 + (1 - t)·eps, with continuous t.

Its time runs towards the image: the embedder is fed t = 1 - sigma itself, 1 for a clean image.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.noise import FlowSchedule, Schedule, read_flow_schedule


class SiT(DiT):
    """The reference; blocks, taps and fold are DiT's."""

    family: ClassVar[str] = "sit"

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        read_flow_schedule(config, "SiT")  # refuses another path; nothing in it changes this one
        return FlowSchedule(towards_data=True)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor, positions: Tensor | None = None) -> Tensor:
        """Velocity x0 - eps; a second half of the channels, where the file has one, was never trained."""
        return super().forward(x, timestep, label, positions)[:, : self.channels]
