"""Frozen encoders whose features a DiT learns in addition to denoising (REPA, arXiv 2410.06940).

The first one is `aselect_edge.training.efficientnet`, small enough to run online with the student.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aselect_edge.training.efficientnet import EfficientNetLite0, Features, load_efficientnet
from aselect_runtime.errors import InputError


class Teacher(Protocol):
    """A frozen encoder."""

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the middle, deep and pooled features."""

    def __call__(self, pixels: Tensor) -> Features:
        """Pixels (N, 3, H, W), RGB, 0..255 -> features."""


class Hooked(nn.Module):
    """See Teacher: any convolutional encoder, read at the last modules whose outputs have stride 16 and 32."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`mean` and `std` are of RGB in 0..1; raises InputError for an encoder that has no such strides."""
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)
        self._seen: dict[str, Tensor] = {}
        for name, module in encoder.named_modules():
            module.register_forward_hook(partial(self._see, name))
        self._run(torch.zeros(1, 3, 128, 128))
        last = {16: "", 32: ""}
        for name, value in self._seen.items():
            for stride in last:
                if value.shape[2:] == (128 // stride, 128 // stride):
                    last[stride] = name
        if not all(last.values()):
            raise InputError(
                "got an encoder without maps of stride 16 and 32, expected a convolutional one; choose another"
            )
        self._names = last
        middle, deep = (self._seen[last[stride]].shape[1] for stride in (16, 32))
        self.widths = (middle, deep, deep)

    def _see(self, name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            self._seen[name] = output

    def _run(self, pixels: Tensor) -> None:
        self._seen.clear()
        with torch.no_grad():
            self.encoder((pixels - self.mean) / self.std)

    def forward(self, pixels: Tensor) -> Features:
        self._run(pixels)
        middle, deep = self._seen[self._names[16]], self._seen[self._names[32]]
        return Features(middle, deep, deep.mean(dim=(2, 3)))


def open_teacher(name: str, weights: Path | None = None) -> Teacher:
    """A frozen encoder by name: `efficientnet-lite0`, `timm/NAME` or `torchvision/NAME` (both fetch their weights).

    Raises InputError for an unknown name, and if its package or its hub cannot be reached.
    """
    library, _, model = name.partition("/")
    if name == "efficientnet-lite0":
        return load_efficientnet(weights)
    if library not in ("timm", "torchvision") or not model:
        raise InputError(
            f"got the teacher {name!r}, expected efficientnet-lite0, timm/NAME or torchvision/NAME; choose one of them"
        )
    try:
        if library == "timm":
            timm = importlib.import_module("timm")
            encoder = timm.create_model(model, pretrained=True)
            return Hooked(encoder, encoder.default_cfg["mean"], encoder.default_cfg["std"])
        models = importlib.import_module("torchvision.models")
        return Hooked(models.get_model(model, weights="DEFAULT"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    except InputError:
        raise
    except Exception as error:  # hubs and registries fail in many unrelated ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"got no teacher {name} ({reason}), expected {library} with that model and a hub that can be reached; "
            "install it, or choose efficientnet-lite0"
        ) from error


def save_teacher(model: EfficientNetLite0, path: Path) -> None:
    """Write as float16 safetensors, half the size of the reference without its classifier."""
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, path)
