"""What a strategy may look at: images that can be read, and for some labels."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from aselect_edge.data import images_of, open_classification, open_segmentation
from aselect_edge.data.layout import UNREADABLE_SHARE
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, read_image, resize, resize_label
from aselect_runtime.media import is_video
from aselect_runtime.records import DataFingerprint, Resize, Task

log = logging.getLogger(__name__)

NO_LABEL = -1

T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """Images that were all decoded once; read again from disk whenever they are looked at."""

    reads: tuple[Callable[[], Frame], ...]
    fingerprint: DataFingerprint

    def __len__(self) -> int:
        return len(self.reads)

    def shuffled(self, seed: int) -> Images:
        """The same images in random order."""
        return replace(self, reads=tuple(random.Random(seed).sample(self.reads, len(self.reads))))

    def frames(self, part: range, size: tuple[int, int], how: Resize) -> Tensor:
        """(N, H, W, 3) uint8 BGR of the images of `part`."""
        return torch.from_numpy(np.stack([resize(self.reads[i](), size, how) for i in part]))


NO_IMAGES = Images((), DataFingerprint(images=0, sha256=hashlib.sha256().hexdigest()))
"""For a strategy that looks at none."""


@dataclass(frozen=True)
class Labelled:
    """Images and their labels at `size`: class maps (N, H, W) for segmentation, classes (N,) for classification."""

    images: Images
    labels: Tensor
    """int16; NO_LABEL where there is none."""
    classes: int

    def tokens(self, grid: tuple[int, int]) -> Tensor:
        """The class at each token's centre, (N, rows, columns) int64; of classification its (N,)."""
        if self.labels.ndim == 1:
            return self.labels.long()
        rows, columns = (
            (torch.arange(n) * 2 + 1) * s // (2 * n) for n, s in zip(grid, self.labels.shape[1:], strict=True)
        )
        return self.labels[:, rows][:, :, columns].long()

    def sample(self, grid: tuple[int, int], seed: int, count: int) -> Tensor:
        """`tokens`, of which only `count` an image keep their class, drawn at random; all of a classification."""
        labels = self.tokens(grid)
        if labels.ndim == 1:
            return labels
        flat = labels.flatten(1)
        order = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed)).where(flat != NO_LABEL, 2.0)
        chosen = torch.zeros_like(order, dtype=torch.bool).scatter(1, order.argsort(1)[:, :count], True)
        return labels.where(chosen.view_as(labels), NO_LABEL)


@dataclass(frozen=True)
class Evidence:
    """What is looked at; `train` and `val` only where a strategy asked for labels."""

    images: Images
    train: Labelled | None = None
    val: Labelled | None = None

    def labels(self) -> tuple[Labelled, Labelled]:
        """`train` and `val` of a strategy that needs them."""
        if self.train is None or self.val is None:
            raise InputError("got no labelled images, expected train/ and val/ with labels; add them", parameter="data")
        return self.train, self.val


def open_images(data: Path, count: int, seed: int) -> Images:
    """At most `count` images, at random, of a folder (its training part if it has one) or frames of a video."""
    if data.is_file():
        return _video(data, count)
    paths = _some(images_of(data), count, seed)
    kept, _, fingerprint = _checked(paths, lambda n: read_image(paths[n]).shape)
    return _images(paths, kept, fingerprint)


def open_labelled(
    data: Path, split: str, task: Task, count: int, seed: int, size: tuple[int, int], how: Resize
) -> Labelled:
    """At most `count` labelled images of a split, at random; of a classification set as many of each class."""
    if task == "cls":
        folder = open_classification(data, split)
        chosen = _balanced(folder.labels, count, seed)
        paths = [folder.paths[i] for i in chosen]
        kept, _, fingerprint = _checked(paths, lambda n: read_image(paths[n]).shape)
        labels = torch.tensor([folder.labels[chosen[n]] for n in kept], dtype=torch.int16)
        return Labelled(_images(paths, kept, fingerprint), labels, len(folder.classes))
    pairs = open_segmentation(data, split)
    chosen = _some(list(range(len(pairs))), count, seed)
    paths = [pairs.pairs[i][0] for i in chosen]

    def label_map(n: int) -> Frame:
        return resize_label(pairs.read(chosen[n])[1], size, how, pairs.ignore_index)

    kept, maps, fingerprint = _checked(paths, label_map)
    labels = torch.from_numpy(np.stack(maps)).short()
    return Labelled(
        _images(paths, kept, fingerprint), labels.where(labels != pairs.ignore_index, NO_LABEL), len(pairs.classes)
    )


def _images(paths: Sequence[Path], kept: Sequence[int], fingerprint: DataFingerprint) -> Images:
    return Images(tuple(partial(read_image, paths[n]) for n in kept), fingerprint)


def _checked(paths: Sequence[Path], check: Callable[[int], T]) -> tuple[list[int], list[T], DataFingerprint]:
    """Indices of the readable ones, what `check` made of them and their fingerprint, before anything costly starts.

    Names and skips the unreadable ones; raises InputError if more than 5 % are.
    """
    kept, results, digest = [], [], hashlib.sha256()
    for index, path in enumerate(paths):
        try:
            results.append(check(index))
        except InputError as error:
            log.warning("skipped: %s", error)
            continue
        kept.append(index)
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    unreadable = len(paths) - len(kept)
    if unreadable > UNREADABLE_SHARE * len(paths):
        raise InputError(
            f"got {unreadable} unreadable images of {len(paths)}, expected at most 5 %; repair or remove them"
        )
    return kept, results, DataFingerprint(images=len(kept), sha256=digest.hexdigest())


def _video(path: Path, count: int) -> Images:
    """At most `count` frames spread evenly over a video."""
    capture = cv2.VideoCapture(str(path)) if is_video(path) else None
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture else 0
    if total < 1:
        raise InputError(
            f"{path}: not a video that OpenCV reads, expected one or a folder of images; give another", parameter="data"
        )
    some = min(count, total)
    chosen = [(2 * n + 1) * total // (2 * some) for n in range(some)]  # not the last one, which many files miscount
    digest = hashlib.sha256(path.read_bytes())
    digest.update(json.dumps(chosen).encode())
    reads = tuple(partial(_video_frame, path, n) for n in chosen)
    return Images(reads, DataFingerprint(images=len(reads), sha256=digest.hexdigest()))


def _video_frame(path: Path, index: int) -> Frame:
    capture = cv2.VideoCapture(str(path))
    try:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        found, frame = capture.read()
    finally:
        capture.release()
    if not found:
        raise InputError(f"{path}: frame {index} does not decode, expected a whole video; cut or replace it")
    return frame  # type: ignore[return-value]


def _balanced(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """At most `count` indices, one of each class in turn, at random within a class; sorted."""
    shuffled = random.Random(seed).sample(range(len(labels)), len(labels))
    seen: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for index in shuffled:
        turns.append((seen[labels[index]], len(turns), index))
        seen[labels[index]] += 1
    return sorted(index for _, _, index in sorted(turns)[:count])


def _some(items: list[T], count: int, seed: int) -> list[T]:
    """At most `count` items, at random, in their own order."""
    if len(items) <= count:
        return items
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), count))]
