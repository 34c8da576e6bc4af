"""An opened split: images with a class map or a class each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Protocol, Self, TypeAlias

import numpy as np

from aselect_edge.data.intact import orientation
from aselect_edge.data.masks import SUFFIXES, grey_bits, read_indices
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, read_image
from aselect_runtime.records import ClassInfo

Decode: TypeAlias = Callable[[Path], Frame]
"""A label file -> class map uint8 [H, W]; raises InputError for an invalid file."""


def image_name(path: PurePath) -> str:
    """An image's folder name and file name: independent of the location of the data."""
    return "/".join(path.parts[-2:])


class Split(Protocol):
    """The common interface of both kinds of data."""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes in the order of their indices."""

    def __len__(self) -> int: ...

    def path(self, index: int) -> Path:
        """Path of the image's file."""

    def name(self, index: int) -> str:
        """The image's folder name and file name: independent of the location of the data."""

    def subset(self, indices: Iterable[int]) -> Self:
        """A split of only these images, in this order."""


def _refuse_doubtful_turn(image: Path, mask: Path, label: Frame) -> None:
    """Raise InputError if an EXIF tag rotates an image and the mask's size does not show whether it is rotated too."""
    turn = orientation(image)
    if turn > 1 and (turn < 5 or label.shape[0] == label.shape[1]):
        raise InputError(
            f"{image}: got the EXIF orientation {turn}, expected an image stored upright, because the size of {mask} "
            "does not show whether it is rotated too; store both upright, without the tag"
        )


@dataclass(frozen=True)
class SegmentationData:
    """One split: paired image and label paths, the classes, and the label value that means "no label"."""

    pairs: tuple[tuple[Path, Path], ...]
    classes: tuple[ClassInfo, ...]
    ignore_index: int
    decode: Decode = read_indices
    named_in: Path | None = None
    """The user's file that names the classes, if any: a class in it that occurs in no mask is a mistake."""

    def __len__(self) -> int:
        return len(self.pairs)

    def path(self, index: int) -> Path:
        """Path of the image's file."""
        return self.pairs[index][0]

    def name(self, index: int) -> str:
        """Folder and file name of the image."""
        return image_name(self.path(index))

    def subset(self, indices: Iterable[int]) -> Self:
        """A split of only these images, in this order."""
        return replace(self, pairs=tuple(self.pairs[index] for index in indices))

    def read(self, index: int) -> tuple[Frame, Frame]:
        """(BGR uint8 [H, W, 3], labels uint8 [H, W]); raises InputError for a bad or mismatched pair."""
        image_path, label_path = self.pairs[index]
        image, label = read_image(image_path), self.label(index)
        if label.shape != image.shape[:2]:
            turned = label.shape == image.shape[1::-1] and orientation(image_path) > 1
            raise InputError(
                f"{label_path}: got {label.shape[0]}x{label.shape[1]}, expected the image's "
                f"{image.shape[0]}x{image.shape[1]}"
                + (
                    ", which its EXIF tag rotates; rotate the mask too"
                    if turned
                    else "; resize it with nearest neighbour"
                )
            )
        if label_path != image_path and label_path.suffix.lower() in SUFFIXES:
            _refuse_doubtful_turn(image_path, label_path, label)
        return image, label

    def label(self, index: int) -> Frame:
        """Only the class map, uint8 [H, W]; raises InputError for an invalid label."""
        label_path = self.pairs[index][1]
        label = self.decode(label_path)
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
        bits = grey_bits(label_path) if self.ignore_index in present and label_path.suffix.lower() == ".png" else 8
        if bits < 8:
            raise InputError(
                f"{label_path}: got a mask of {bits} bits, whose white may be no label or the highest class, expected "
                "8 bits; save it again"
            )
        unknown = np.setdiff1d(present, [*range(len(self.classes)), self.ignore_index])
        if unknown.size:
            raise InputError(
                f"{label_path}: got class {unknown[0]}, expected 0 to {len(self.classes) - 1} or "
                f"{self.ignore_index} (no label); correct the label or classes.json"
            )
        return label


@dataclass(frozen=True)
class ClassificationData:
    """One split: image paths, the class of each, and the classes."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[ClassInfo, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Path of the image's file."""
        return self.paths[index]

    def name(self, index: int) -> str:
        """Folder and file name of the image."""
        return image_name(self.path(index))

    def subset(self, indices: Iterable[int]) -> Self:
        """A split of only these images, in this order."""
        chosen = list(indices)
        return replace(self, paths=tuple(self.paths[i] for i in chosen), labels=tuple(self.labels[i] for i in chosen))

    def read(self, index: int) -> tuple[Frame, int]:
        """(BGR uint8 [H, W, 3], class); raises InputError for an unreadable image."""
        return read_image(self.paths[index]), self.labels[index]


LabelledData = SegmentationData | ClassificationData
