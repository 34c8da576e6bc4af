"""Labels beside the generative loss: the joint denoising and task loss, for pretraining on a small budget.

Diffusion features become semantic only after millions of pictures. Where there is no GPU, labels teach faster: two
linear probes read the backbone's own tokens while it denoises, one the class of the picture, one the class of
each 2x2 pixels, and their losses are added to the denoising loss, each picture's weighted by how much of it the
noise left (alpha squared). The probes are thrown away afterwards. Joint losses of this kind are described by
second-hand texts about A-SelecT; the paper itself takes a backbone that was trained on denoising alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones import DiT
from research.corpus import NO_CLASS, UNLABELLED

DETAIL = 4
"""Classes of a token are told apart on so many cells a side; they divide the patch size."""


@dataclass(frozen=True)
class Lesson:
    """What is read where: the class of a picture before one block, its class map before another, and their weights."""

    classes: int
    map_classes: int
    class_block: int = 6
    map_block: int = 3
    class_weight: float = 0.1
    map_weight: float = 0.3

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks whose input is read."""
        return tuple({self.class_block, self.map_block})


class Teacher(nn.Module):
    """The probes on what enters their blocks."""

    def __init__(self, model: DiT, lesson: Lesson) -> None:
        super().__init__()
        self.lesson = lesson
        # A gain and a bias of its own would do nothing before a linear layer.
        self.norm = nn.LayerNorm(model.width, elementwise_affine=False)
        self.classify = nn.Linear(model.width, lesson.classes)
        self.segment = nn.Linear(model.width, lesson.map_classes * DETAIL**2)
        self.null_label = model.null_label

    def forward(self, seen: dict[int, Tensor], label: Tensor, told: Tensor, maps: Tensor, signal: Tensor) -> Tensor:
        """The weighted loss of a forward pass of which the tokens (N, T, D) that entered the lesson's blocks were seen.

        label (N,) is each picture's class or NO_CLASS, `told` (N,) the class that the model was conditioned on (only
        a picture whose class it was not told can be asked for it), maps (N, H, W) with UNLABELLED, signal (N,).
        """
        asked = (label != NO_CLASS) & (told == self.null_label)
        tokens = self.norm(seen[self.lesson.class_block].float())  # (N, T, D)
        by_class = F.cross_entropy(self.classify(tokens.mean(1)), label.where(asked, 0), reduction="none")
        loss = self.lesson.class_weight * _mean(by_class, signal * asked, 1)
        logits = self.segment(self.norm(seen[self.lesson.map_block].float()))  # (N, T, classes·cells)
        cells = _cells(maps, logits.shape[1])  # (N, T, cells)
        known = cells != UNLABELLED
        by_cell = F.cross_entropy(
            logits.unflatten(2, (-1, DETAIL**2)).transpose(1, 2), cells.where(known, 0), reduction="none"
        )
        return loss + self.lesson.map_weight * _mean(by_cell, signal[:, None, None] * known, cells[0].numel())


@contextmanager
def watching(model: DiT, blocks: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """What enters some of the model's blocks (N, T, D) in forward passes inside, by block; the last pass counts.

    Nothing stays on the model: copies of it are free, and no pass is taken for another's.
    """
    seen: dict[int, Tensor] = {}

    def see(block: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[block] = inputs[0]

    hooks = [model.blocks[block].register_forward_pre_hook(partial(see, block)) for block in blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _cells(maps: Tensor, tokens: int) -> Tensor:
    """Class maps (N, H, W) -> the class at the middle of each of a token's cells, (N, T, cells)."""
    height, width = maps.shape[1:]
    side = round((height * width / tokens) ** 0.5) // DETAIL
    middle = maps[:, side // 2 :: side, side // 2 :: side].long()  # (N, rows·DETAIL, columns·DETAIL)
    cells: Tensor = middle.unflatten(2, (-1, DETAIL)).unflatten(1, (-1, DETAIL)).transpose(2, 3)
    return cells.flatten(3).flatten(1, 2)


def _mean(losses: Tensor, weights: Tensor, least: int) -> Tensor:
    """Weighted mean; weights that sum to less than `least`, one clean picture's, leave it smaller.

    Else a batch whose only labelled picture is nearly noise would teach as much as one of clean pictures.
    """
    mean: Tensor = (losses * weights).sum() / weights.sum().clamp(min=least)
    return mean
