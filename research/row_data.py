"""A task's labelled images as tensors on the device, and augmented views of them, which are drawn there.

A CPU could not feed a GPU fast enough with the views of `aselect-train`, so these are made in another way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import Tensor

from aselect_edge.data import ClassificationData, LabelledData, SegmentationData
from aselect_edge.training.goal import Goal
from aselect_edge.training.recipe import Recipe
from aselect_runtime import scenes
from aselect_runtime.frames import NEAREST, resize
from aselect_runtime.records import Resize, Task
from research.corpus import crop_boxes, recoloured, sample, street_pair

STREETS = 256
"""Synthetic streets of a task whose classes are theirs."""


@dataclass(frozen=True)
class Split:
    """A split on the device."""

    pixels: Tensor
    """(N, 3, H, W) uint8, BGR: train as stored, val and test through the deployed resize."""
    labels: Tensor
    """(N,) classes, or (N, H, W) class maps in their own size."""


@dataclass(frozen=True)
class Labelled:
    """A task's data on the device."""

    task: Task
    goal: Goal
    imgsz: tuple[int, int]
    train: Split
    held: dict[str, Split]
    """val, and test if it exists."""
    streets: Split | None
    """Synthetic images that are mixed into the batches."""
    label_stride: int = 1
    """Segmentation: the loss is computed on every n-th row and column."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.goal.train.classes)

    @property
    def ignored(self) -> int:
        """Segmentation: the value of pixels without a class."""
        return cast(SegmentationData, self.goal.val).ignore_index

    def batch(self, generator: torch.Generator, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Augmented views: pixels (N, 3, H, W) BGR, 0..255, and labels (N, H, W) or (N,)."""
        few = int(recipe.batch * recipe.synthetic) if self.streets else 0
        parts = [self._views(generator, self.train, recipe.batch - few)]
        if self.streets and few:
            parts.append(self._views(generator, self.streets, few))
        pixels, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return recoloured(generator, pixels), labels.long()

    def _views(self, generator: torch.Generator, split: Split, count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(split.pixels), (count,), generator=generator, device=generator.device)
        images, labels = split.pixels[chosen], split.labels[chosen]
        smallest = 0.45 if self.task == "seg" else 0.35
        # Boxes are relative to the image, not to the aspect ratio of the input: the deployed resize stretches too.
        own = (images.shape[2], images.shape[3])
        boxes = crop_boxes(generator, images.shape, own, (smallest, 1.0), 1.2)
        whole = crop_boxes(generator, images.shape, own, (1.0, 1.0), 1.0)
        either = torch.rand(count, 1, 1, generator=generator, device=generator.device) < 0.5
        boxes = torch.where(either, boxes, whole)
        pixels = sample(images, boxes, self.imgsz, "bilinear")
        if labels.ndim == 1:
            return pixels, labels
        rows, columns = (side // self.label_stride for side in self.imgsz)
        return pixels, sample(labels[:, None], boxes, (rows, columns), "nearest")[:, 0]


def load_labelled(
    task: Task,
    goal: Goal,
    test: LabelledData | None,
    imgsz: tuple[int, int],
    how: Resize,
    recipe: Recipe,
    device: torch.device,
    small: bool = False,
) -> Labelled:
    """Read a task's splits onto the device, and draw synthetic streets, few of them in a `small` dry run."""
    stored = (360, 480) if task == "seg" else (288, 288)
    held = {"val": _split(goal.val, imgsz, how, device)} | ({"test": _split(test, imgsz, how, device)} if test else {})
    streets = None
    if task == "seg" and recipe.synthetic and tuple(info.name for info in goal.train.classes) == scenes.CLASSES:
        pairs = [street_pair(index) for index in range(4 if small else STREETS)]
        streets = Split(_pixels([frame for frame, _ in pairs], device), _stack([label for _, label in pairs], device))
    train = _split(goal.train, stored, how, device, labels_too=True)
    return Labelled(task, goal, imgsz, train, held, streets)


def _split(
    data: LabelledData, size: tuple[int, int], how: Resize, device: torch.device, labels_too: bool = False
) -> Split:
    pairs = [data.read(index) for index in range(len(data))]
    frames = [resize(frame, size, how) for frame, _ in pairs]
    if isinstance(data, ClassificationData):
        return Split(_pixels(frames, device), torch.tensor([label for _, label in pairs], device=device))
    maps = [np.asarray(label) for _, label in pairs]
    if labels_too:
        maps = [cv2.resize(each, size[::-1], interpolation=NEAREST) for each in maps]
    return Split(_pixels(frames, device), _stack(maps, device))


def _pixels(frames: list[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous().to(device)


def _stack(maps: list[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(maps)).to(device)
