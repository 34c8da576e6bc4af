"""Training batches of pixels: augmented views of labelled images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aselect_edge.data import ClassificationData, SegmentationData
from aselect_edge.data.augment import Augmentation, classified_view, labelled_view
from aselect_edge.data.masks import read_indices
from aselect_edge.training.recipe import Recipe
from aselect_runtime import scenes
from aselect_runtime.errors import InputError
from aselect_runtime.files import sha256
from aselect_runtime.frames import Frame
from aselect_runtime.records import Resize

DECODED_BYTES = 400_000_000
"""Maximum decoded images in memory; others are read again."""
STREETS = 256
"""Number of synthetic frames that views are drawn from; limited, as drawing one takes as long as training on it."""

Label = TypeVar("Label")


class Views(Protocol):
    """Random views of a split's images: the interface of either task for the loop and the feature cache."""

    @property
    def recipe(self) -> Recipe:
        """Seed, batch, and how many views of an image are kept."""

    def __len__(self) -> int:
        """Number of images; each gives any number of views."""

    def view(self, rng: np.random.Generator, index: int | None = None) -> tuple[Frame, Frame | int]:
        """One augmented frame at model size and its label, of image `index` or of a random one."""

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pixels (N, 3, H, W) float BGR 0..255, and int64 labels (N, H, W) or (N,)."""

    def describe(self) -> str:
        """How the views are made; equal descriptions mean equal views of the same data."""


class SegmentationViews:
    """Views of frames and their label maps, mixed with synthetic streets if the classes are CamVid's."""

    def __init__(self, data: SegmentationData, imgsz: tuple[int, int], how: Resize, recipe: Recipe) -> None:
        self.data, self.imgsz, self.how, self.recipe = data, imgsz, how, recipe
        self.augmentation = Augmentation()
        streets = tuple(info.name for info in data.classes) == scenes.CLASSES
        self.synthetic = recipe.synthetic if streets else 0.0
        self.images, self.streets = _Decoded(data.read), _Decoded(_street)

    def __len__(self) -> int:
        return len(self.data)

    def view(self, rng: np.random.Generator, index: int | None = None) -> tuple[Frame, Frame]:
        """One augmented (frame, label map), both at model size."""
        if rng.random() < self.synthetic:
            frame, label = self.streets.read(int(rng.integers(STREETS)))
        else:
            frame, label = self.images.read(int(rng.integers(len(self))) if index is None else index)
        return labelled_view(rng, frame, label, self.imgsz, self.how, self.data.ignore_index, self.augmentation)

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pixels (N, 3, H, W) float BGR 0..255, labels (N, H, W) int64."""
        frames, labels = zip(*(self.view(rng) for _ in range(self.recipe.batch)), strict=True)
        return to_pixels(np.stack(frames)), torch.from_numpy(np.stack(labels)).long()

    def describe(self) -> str:
        return _described(self.imgsz, self.how, self.augmentation, self.recipe, self.synthetic)


class ClassificationViews:
    """Views of images and their classes."""

    def __init__(self, data: ClassificationData, imgsz: tuple[int, int], how: Resize, recipe: Recipe) -> None:
        self.data, self.imgsz, self.how, self.recipe = data, imgsz, how, recipe
        self.augmentation = Augmentation()
        self.images = _Decoded(data.read)

    def __len__(self) -> int:
        return len(self.data)

    def view(self, rng: np.random.Generator, index: int | None = None) -> tuple[Frame, int]:
        """One augmented frame at model size, and its class."""
        frame, label = self.images.read(int(rng.integers(len(self))) if index is None else index)
        return classified_view(rng, frame, self.imgsz, self.how, self.augmentation), label

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pixels (N, 3, H, W) float BGR 0..255, labels (N,) int64."""
        frames, labels = zip(*(self.view(rng) for _ in range(self.recipe.batch)), strict=True)
        return to_pixels(np.stack(frames)), torch.tensor(labels, dtype=torch.int64)

    def describe(self) -> str:
        return _described(self.imgsz, self.how, self.augmentation, self.recipe)


class _Decoded(Generic[Label]):
    """Images that are decoded once each, within a memory limit."""

    def __init__(self, read: Callable[[int], tuple[Frame, Label]]) -> None:
        self._read, self._bytes = read, 0
        self._kept: dict[int, tuple[Frame, Label]] = {}

    def read(self, index: int) -> tuple[Frame, Label]:
        if index in self._kept:
            return self._kept[index]
        pair = self._read(index)
        size = sum(part.nbytes for part in pair if isinstance(part, np.ndarray))
        if self._bytes + size <= DECODED_BYTES:
            self._kept[index] = pair
            self._bytes += size
        return pair


def _street(index: int) -> tuple[Frame, Frame]:
    """Frame and label of a synthetic street; each index shows another moment at one of 64 places."""
    return scenes.Street(seed=index % 64, height=240, width=320).frame(index * 389 % 2000)


def _described(
    imgsz: tuple[int, int], how: Resize, augmentation: Augmentation, recipe: Recipe, synthetic: float = 0.0
) -> str:
    content = {
        "imgsz": imgsz,
        "resize": how.model_dump(),
        "augmentation": asdict(augmentation),
        "synthetic": synthetic,
        "seed": recipe.seed,
    }
    return json.dumps(content, sort_keys=True)


def data_digest(data: SegmentationData | ClassificationData) -> str:
    """SHA-256 over the classes and the images' names, files and labels; raises InputError for a file it cannot read.

    The digest does not depend on the data's location, and changes if a label is corrected, also where labels are not
    the images' own files, or are read by a table that another file holds.
    """
    labelled: Sequence[tuple[tuple[Path, ...], int]]
    if isinstance(data, SegmentationData):
        labelled = [(pair, data.ignore_index) for pair in data.pairs]
    else:
        labelled = [((path,), label) for path, label in zip(data.paths, data.labels, strict=True)]
    digest = hashlib.sha256(json.dumps([info.name for info in data.classes]).encode())
    for index, (files, label) in enumerate(labelled):
        digest.update(json.dumps([data.name(index), label]).encode())
        for path in files:
            digest.update(_file_digest(path).encode())
        if isinstance(data, SegmentationData) and data.decode is not read_indices:
            digest.update(data.label(index).tobytes())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror}), expected an image or its label; check it") from error


def to_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W), still BGR and 0..255."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().contiguous()
