"""Training batches: augmented views of labelled frames, as pixels or as features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aselect_edge import scenes
from aselect_edge.augment import Augmentation, labelled_view
from aselect_edge.data import SegmentationData
from aselect_edge.frames import Frame
from aselect_edge.records import Resize
from aselect_edge.training.recipe import Recipe, TellProgress

DECODED_BYTES = 400_000_000
"""Decoded frames kept in memory; beyond that they are read again."""
FEATURE_BYTES = 2_000_000_000
"""Features kept in memory; beyond that there are fewer views per frame."""


class Views:
    """Random views of a split's frames, mixed with synthetic streets where the classes allow it."""

    def __init__(self, data: SegmentationData, imgsz: tuple[int, int], how: Resize, recipe: Recipe) -> None:
        self.data, self.imgsz, self.how, self.recipe = data, imgsz, how, recipe
        streets = tuple(info.name for info in data.classes) == scenes.CLASSES
        self.streets = [scenes.Street(seed=s, height=240, width=320) for s in range(64 if streets else 0)]
        self.pool: list[tuple[Frame, Frame]] = []
        self.decoded: dict[int, tuple[Frame, Frame]] = {}

    def view(self, rng: np.random.Generator) -> tuple[Frame, Frame]:
        """One augmented (frame, label) at model size."""
        synthetic = self.streets and rng.random() < self.recipe.synthetic
        frame, label = self._street(rng) if synthetic else self._labelled(int(rng.integers(len(self.data))))
        ignore = self.data.ignore_index
        return labelled_view(rng, frame, label, self.imgsz, self.how, ignore, Augmentation())

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """pixels (N, 3, H, W) float BGR, labels (N, H, W) int64."""
        views = [self.view(rng) for _ in range(self.recipe.batch)]
        return to_pixels(np.stack([f for f, _ in views])), torch.from_numpy(np.stack([y for _, y in views])).long()

    def _labelled(self, index: int) -> tuple[Frame, Frame]:
        if index not in self.decoded:
            pair = self.data.read(index)
            if len(self.decoded) * pair[0].nbytes > DECODED_BYTES:
                return pair
            self.decoded[index] = pair
        return self.decoded[index]

    def _street(self, rng: np.random.Generator) -> tuple[Frame, Frame]:
        # Drawing a street takes as long as training on it, so a pool grows slowly and is drawn from.
        if len(self.pool) < 256:
            street = self.streets[int(rng.integers(len(self.streets)))]
            self.pool.append(street.frame(int(rng.integers(2000))))
            return self.pool[-1]
        return self.pool[int(rng.integers(len(self.pool)))]


class FrozenViews:
    """Features of random views, computed once by a frozen backbone and kept in float16, in bounded memory."""

    def __init__(self, views: Views, extract: Callable[[Tensor], tuple[Tensor, ...]], tell: TellProgress) -> None:
        """`extract` maps pixels to one feature map per tap."""
        self.batch_size = views.recipe.batch
        self.features: list[tuple[Tensor, ...]] = []
        self.labels: list[Tensor] = []
        rng = np.random.default_rng((views.recipe.seed, 1))
        wanted, total = len(views.data) * views.recipe.views, 1
        while len(self.labels) < total:
            frame, label = views.view(rng)
            with torch.no_grad():
                self.features.append(tuple(feature[0].half() for feature in extract(to_pixels(frame[None]))))
            self.labels.append(torch.from_numpy(label))
            total = min(wanted, max(self.batch_size, FEATURE_BYTES // sum(f.nbytes for f in self.features[0])))
            tell("features", len(self.labels) / total)

    def batch(self, rng: np.random.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        """One map (N, rows, columns, D) per tap, float32, and labels (N, H, W) int64."""
        chosen = rng.integers(len(self.labels), size=self.batch_size)
        maps = zip(*(self.features[i] for i in chosen), strict=True)
        return tuple(torch.stack(m).float() for m in maps), torch.stack([self.labels[i] for i in chosen]).long()


def to_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W), still BGR and 0..255."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().contiguous()
