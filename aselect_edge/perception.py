"""The whole model, pixels to logits: as the reference that is trained, and folded as it is deployed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aselect_edge.backbones.dit import DiT
from aselect_edge.fold import FoldedDiT, fixed_noise, fold
from aselect_edge.heads import Head
from aselect_edge.records import Noise, Tap


class Perception(nn.Module):
    """Unfolded: pixels (N, 3, H, W), BGR, float 0..255 -> logits. What is trained, and the reference of parity."""

    eps: Tensor

    def __init__(
        self,
        backbone: DiT,
        head: Head,
        noise: Noise,
        taps: Sequence[Tap],
        imgsz: tuple[int, int],
        noise_seed: int | None,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.noise, self.taps, self.imgsz, self.noise_seed = noise, tuple(taps), imgsz, noise_seed
        self.register_buffer("eps", fixed_noise((3, *imgsz), noise_seed), persistent=False)

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """One map (N, rows, columns, D) per tap."""
        x0 = pixels.flip(1) / 127.5 - 1
        x = self.noise.alpha * x0 + self.noise.sigma * self.eps
        timestep = torch.full((len(x),), self.noise.model_timestep, device=x.device)
        label = torch.full((len(x),), self.backbone.null_label, device=x.device)
        seen = self.backbone.features(x, timestep, label, self.taps)
        grid = self.backbone.grid(*self.imgsz)
        return tuple(seen[tap].unflatten(1, grid) for tap in self.taps)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))  # type: ignore[no-any-return]

    def deployed(self) -> FoldedPerception:
        """The same function, folded and truncated; eval mode, float32."""
        folded = fold(self.backbone, self.noise, self.taps, self.imgsz, self.noise_seed)
        return FoldedPerception(folded, fused(self.head)).eval().requires_grad_(False)


class FoldedPerception(nn.Module):
    """Folded: same signature as `Perception`."""

    def __init__(self, backbone: FoldedDiT, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.backbone(pixels))  # type: ignore[no-any-return]


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (N, C, h, w) at (height, width), bilinear: the one rule of training, evaluation and the deployed graph."""
    return nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def fused(head: nn.Module) -> nn.Module:
    """A copy in eval mode with every BatchNorm folded into the convolution before it."""
    head = copy.deepcopy(head).eval()
    for module in head.modules():
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                conv, norm = module[index], module[index + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[index], module[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return head
