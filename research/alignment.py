"""Alignment with features of a frozen teacher, in addition to the denoising loss (REPA, arXiv 2410.06940).

Small projectors map the student's tokens, at two depths, to the teacher's features, compared by negative cosine: a
token with the teacher's stride 16 and stride 32 features at its position, the mean of the tokens with the teacher's
pooled features. Stride 32 and pooled features help recognition, stride 16 helps localisation. Targets are standardised
per channel, because a few strong channels would dominate the cosine. The projectors are discarded after training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones import DiT
from aselect_edge.training.efficientnet import Features


class Standardise(nn.Module):
    """(x - mean) / standard deviation per channel, measured once on images of the corpus."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        for index, width in enumerate(widths):
            self.register_buffer(f"mean{index}", torch.zeros(width))
            self.register_buffer(f"gain{index}", torch.ones(width))

    @torch.no_grad()
    def measure(self, batches: list[Features]) -> None:
        """Compute mean and deviation from features of some batches."""
        for index in range(3):
            rows = torch.cat([_rows(batch[index]).float() for batch in batches])
            getattr(self, f"mean{index}").copy_(rows.mean(0))
            getattr(self, f"gain{index}").copy_(1 / (rows.std(0) + 1e-4))

    def forward(self, features: Features) -> Features:
        parts = []
        for index, part in enumerate(features):
            shape = (1, -1, 1, 1) if part.ndim == 4 else (1, -1)
            mean, gain = getattr(self, f"mean{index}").view(shape), getattr(self, f"gain{index}").view(shape)
            parts.append((part.float() - mean) * gain)
        return Features._make(parts)


class Projector(nn.Module):
    """Tokens (N, T, D) of one depth -> the teacher's features of each token and of the image."""

    def __init__(self, width: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        middle, deep, pooled = widths
        self.split = (middle, deep)
        self.dense = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 512), nn.SiLU(), nn.Linear(512, middle + deep))
        self.whole = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1024), nn.SiLU(), nn.Linear(1024, pooled))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        middle, deep = self.dense(tokens).split(self.split, dim=2)
        return middle, deep, self.whole(tokens.mean(dim=1))


class Alignment(nn.Module):
    """The alignment loss, on the tokens that enter some blocks of the student."""

    def __init__(self, width: int, widths: tuple[int, int, int], blocks: dict[int, float]) -> None:
        """`blocks` are the weights of the depths: block whose input is aligned -> weight."""
        super().__init__()
        self.weights = blocks
        self.projectors = nn.ModuleDict({str(block): Projector(width, widths) for block in blocks})

    def forward(self, seen: dict[int, Tensor], targets: Features, grid: tuple[int, int], weight: Tensor) -> Tensor:
        """seen: tokens (N, T, D) by block; targets standardised; weight (N,) of each image, 1 over a batch."""
        middle, deep = (_rows_of_tokens(part, grid) for part in targets[:2])
        loss = weight.new_zeros(())
        for block, share in self.weights.items():
            m, d, p = self.projectors[str(block)](seen[block])
            far = _distance(m, middle).mean(1) + _distance(d, deep).mean(1) + 2 * _distance(p, targets.pooled)
            loss = loss + share * (far * weight).sum() / 4
        return loss


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine over the last axis, in float32."""
    return 1 - F.cosine_similarity(a.float(), b, dim=-1)


def _rows(part: Tensor) -> Tensor:
    return part.permute(0, 2, 3, 1).flatten(0, 2) if part.ndim == 4 else part


def _rows_of_tokens(part: Tensor, grid: tuple[int, int]) -> Tensor:
    """Dense features (N, C, h, w) at the student's token grid, (N, T, C)."""
    if part.shape[2:] != grid:
        part = F.interpolate(part, size=grid, mode="bilinear", align_corners=False)
    return part.flatten(2).transpose(1, 2)


def walk(
    model: DiT, x: Tensor, timestep: Tensor, label: Tensor, table: Tensor, wanted: dict[int, float], whole: bool
) -> tuple[dict[int, Tensor], Tensor | None]:
    """Tokens (N, T, D) that enter the wanted blocks, and the model's answer (N, C, H, W) if all blocks are run.

    Otherwise the pass stops before the deepest of them.
    """
    h = model.patch_embed(x).flatten(2).transpose(1, 2) + table
    c = model.conditioning[0](timestep, label)
    seen: dict[int, Tensor] = {}
    for index, block in enumerate(model.blocks):
        if index in wanted:
            seen[index] = h
            if not whole and index == max(wanted):
                return seen, None
        h = block(h, c)
    return seen, model.decode(h, c, model.grid(*x.shape[2:]))
