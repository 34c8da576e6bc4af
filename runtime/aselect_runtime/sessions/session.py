"""The protocol that all inference backends implement."""

from __future__ import annotations

from typing import Protocol

from aselect_runtime.frames import Frame
from aselect_runtime.results import Arrays


class Session(Protocol):
    """A loaded model. One thread at a time may call `infer`."""

    device: str
    """Name of the device, for example `cpu` or `cuda`."""

    def infer(self, frames: Frame) -> Arrays:
        """Run uint8 [N, H, W, 3] of exactly the manifest's input shape; returns outputs by name, each with N first.

        Segmentation: `class_map` uint8 [N, H, W] and `confidence` float32 [N, H/s, W/s]; classification: `scores`
        float32 [N, C]. The arrays belong to the caller: later calls do not change them. Raises EngineError.
        """

    def close(self) -> None:
        """Release the engine; `infer` must not be called afterwards."""
