"""The complete model, pixels to logits: as the reference that is trained, and folded as it is deployed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aselect_edge.backbones.family import Backbone, Condition, Encoder, Pixels, expand
from aselect_edge.bundle.discard import Discard
from aselect_edge.fold import Folded, FoldSpec, deployed_encoder, fixed_noise, fold, fused
from aselect_edge.fold.discard import fold_discarded
from aselect_edge.heads import Head
from aselect_runtime.records import Noise, Tap


class TapModel(nn.Module):
    """The unfolded model: pixels (N, 3, H, W), BGR, float 0..255 -> logits. It is trained, and the parity reference."""

    eps: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        noise: Noise,
        taps: Sequence[Tap],
        imgsz: tuple[int, int],
        noise_seed: int | None,
        encoder: Encoder | None = None,
        condition: Condition | None = None,
        noise_draws: int = 1,
        discarded: Sequence[Sequence[int]] = (),
    ) -> None:
        """Without `encoder` the model's input is pixels; without `condition` the model's default is used.

        `discarded` are the channels of each tap that are set to zero; raises InputError for a channel that the tap does
        not have.
        """
        super().__init__()
        self.backbone, self.head, self.encoder = backbone, head, encoder or Pixels()
        self.condition = backbone.condition() if condition is None else condition
        self.noise, self.taps, self.imgsz, self.noise_seed = noise, tuple(taps), imgsz, noise_seed
        self.size = self.encoder.size(*imgsz)
        self.grid = backbone.grid(*self.size)
        eps = fixed_noise((backbone.channels, *self.size), noise_seed, noise_draws)
        self.register_buffer("eps", eps, persistent=False)
        self.discard = Discard.of(discarded, backbone.width)

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """One map (N, rows, columns, D) per tap, the mean over the draws of the noise; discarded channels are zero."""
        return self.features_of(self.encoder.x0(pixels))

    def features_of(self, x0: Tensor) -> tuple[Tensor, ...]:
        """The features of clean inputs (N, C, h, w), as in `features`."""
        x = (self.noise.alpha * x0[:, None] + self.noise.sigma * self.eps).flatten(0, 1)  # (N·K, C, h, w)
        timestep = torch.full((len(x),), self.noise.model_timestep, device=x.device)
        seen = self.backbone.features(x, timestep, expand(self.condition, len(x), x.device), self.taps)
        means = (seen[tap].unflatten(0, (-1, len(self.eps))).mean(1) for tap in self.taps)
        return self.discard([mean.unflatten(1, self.grid) for mean in means])

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))

    def deployed(self) -> FoldedTapModel:
        """The same function, folded and truncated; eval mode, float32."""
        spec = FoldSpec.of(
            self.backbone,
            self.noise,
            self.taps,
            self.size,
            noise_seed=self.noise_seed,
            draws=len(self.eps),
            condition=self.condition,
            affine=self.encoder.affine,
        )
        encoder, folded = deployed_encoder(self.encoder), fold(self.backbone, spec)
        discard = Discard(fold_discarded(folded, self.discard.keep))
        return FoldedTapModel(encoder, folded, fused(self.head), discard).eval().requires_grad_(False)


class FoldedTapModel(nn.Module):
    """The folded model: same signature as `TapModel`."""

    def __init__(self, encoder: nn.Module, backbone: Folded, head: nn.Module, discard: Discard) -> None:
        super().__init__()
        self.encoder, self.backbone, self.discard, self.head = encoder, backbone, discard, head

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """One map (N, rows, columns, D) per tap."""
        return self.discard(self.backbone(self.encoder(pixels)))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (N, C, h, w) resized to (height, width), bilinear: the same in training, evaluation and deployment."""
    return nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
