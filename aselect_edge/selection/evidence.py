"""The inputs of a strategy: readable images, and labels for some strategies."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from aselect_edge.data import images_of, open_classification, open_segmentation
from aselect_edge.data.layout import UNREADABLE_SHARE
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, read_image, resize, resize_label
from aselect_runtime.media import is_video, library_path
from aselect_runtime.records import DataFingerprint, Resize, Task

log = logging.getLogger(__name__)

NO_LABEL = -1

T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """Images that were all decoded once; they are read from disk again at each use."""

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
"""Evidence of a strategy that uses no images."""


@dataclass(frozen=True)
class Labelled:
    """Images and their labels at `size`: class maps (N, H, W) for segmentation, classes (N,) for classification."""

    images: Images
    labels: Tensor
    """int16; NO_LABEL for pixels without a label."""
    classes: int

    def tokens(self, grid: tuple[int, int]) -> Tensor:
        """The class at each token's centre, (N, rows, columns) int64; for classification (N,)."""
        if self.labels.ndim == 1:
            return self.labels.long()
        rows, columns = (
            (torch.arange(n) * 2 + 1) * s // (2 * n) for n, s in zip(grid, self.labels.shape[1:], strict=True)
        )
        return self.labels[:, rows][:, :, columns].long()

    def sample(self, grid: tuple[int, int], seed: int, count: int) -> Tensor:
        """`tokens`, of which a random `count` per image keep their class; for classification all labels."""
        labels = self.tokens(grid)
        if labels.ndim == 1:
            return labels
        flat = labels.flatten(1)
        order = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed)).where(flat != NO_LABEL, 2.0)
        chosen = torch.zeros_like(order, dtype=torch.bool).scatter(1, order.argsort(1)[:, :count], True)
        return labels.where(chosen.view_as(labels), NO_LABEL)


@dataclass(frozen=True)
class Evidence:
    """The images of a scan; `train` and `val` only if the strategy needs labels."""

    images: Images
    train: Labelled | None = None
    val: Labelled | None = None

    def labels(self) -> tuple[Labelled, Labelled]:
        """`train` and `val` for a strategy that needs labels; raises InputError if they are missing."""
        if self.train is None or self.val is None:
            raise InputError("got no labelled images, expected train/ and val/ with labels; add them", parameter="data")
        return self.train, self.val


def open_images(data: Path, count: int, seed: int, task: Task) -> Images:
    """At most `count` random images of a folder (the task's training part if it has one), or frames of a video."""
    if data.is_file():
        return _video(data, count)
    paths = _some(images_of(data, task=task), count, seed)
    kept, _, fingerprint = _checked(paths, lambda n: read_image(paths[n]).shape)
    return _images(paths, kept, fingerprint)


def open_labelled(
    data: Path, split: str, task: Task, count: int, seed: int, size: tuple[int, int], how: Resize
) -> Labelled:
    """At most `count` random labelled images of a split; for classification as many of each class."""
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
    """Indices of the readable images, the results of `check` and the fingerprint, before anything costly starts.

    Names and skips the unreadable images; raises InputError if more than 5 % are.
    """
    kept, results, digest = [], [], hashlib.sha256()
    for index, path in enumerate(paths):
        try:
            results.append(check(index))
        except InputError as error:
            log.warning("skipped: %s", error)
            continue
        kept.append(index)
        digest.update(os.fsencode(path.name) + b"\0" + path.read_bytes())
    unreadable = len(paths) - len(kept)
    if unreadable > UNREADABLE_SHARE * len(paths):
        raise InputError(
            f"got {unreadable} unreadable images of {len(paths)}, expected at most 5 %; repair or remove them"
        )
    return kept, results, DataFingerprint(images=len(kept), sha256=digest.hexdigest())


def _video(path: Path, count: int) -> Images:
    """At most `count` frames spread evenly over a video."""
    times = _video_times(path) if is_video(path) else []
    if not times:
        raise InputError(
            f"{path}: not a video that FFmpeg reads, expected one or a folder of images; give another", parameter="data"
        )
    some = min(count, len(times))
    chosen = [times[(2 * n + 1) * len(times) // (2 * some)] for n in range(some)]
    reads = [partial(_video_frame, path, time) for time in chosen]
    readable = [number for number, read in enumerate(reads) if _decodes(read)]
    if len(readable) < (1 - UNREADABLE_SHARE) * some:
        raise InputError(
            f"{path}: got {some - len(readable)} frames of {some} that cannot be decoded, expected at most 5 %; copy "
            "the video again or give another",
            parameter="data",
        )
    digest = hashlib.sha256(path.read_bytes())
    digest.update(json.dumps([chosen[number] for number in readable]).encode())
    kept = tuple(reads[number] for number in readable)
    return Images(kept, DataFingerprint(images=len(kept), sha256=digest.hexdigest()))


def _video_times(path: Path) -> list[int]:
    """Presentation time of each frame, in units of the stream's time base; [] if this is not a video with times.

    Read from the packets, without decoding: a container's frame count is only a hint, and the frame rate may vary.
    """
    import av  # images need no av, and not every machine that trains has it

    try:
        with library_path(path) as name, av.open(name) as container:
            packets = list(container.demux(container.streams.video[0]))
    except (av.FFmpegError, OSError, IndexError):
        return []
    return sorted(packet.pts for packet in packets if packet.pts is not None and packet.size and not packet.is_discard)


def _video_frame(path: Path, time: int) -> Frame:
    """The frame shown at a time, upright. OpenCV is not used: it seeks by an average rate, which may be wrong."""
    import av

    with library_path(path) as name, av.open(name) as container:
        stream = container.streams.video[0]
        container.seek(time, stream=stream)
        try:
            frame = next(frame for frame in container.decode(stream) if frame.pts is not None and frame.pts >= time)
        except (av.FFmpegError, StopIteration):
            seconds = float(time * (stream.time_base or 0))
            raise InputError(
                f"{path}: got no frame at {seconds:.2f} s, expected a complete video; copy it again"
            ) from None
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90))


def _decodes(read: Callable[[], Frame]) -> bool:
    try:
        read()
    except InputError as error:
        log.warning("skipped: %s", error)
        return False
    return True


def _balanced(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """At most `count` indices, taken from each class in turn, random within a class; sorted."""
    shuffled = random.Random(seed).sample(range(len(labels)), len(labels))
    seen: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for index in shuffled:
        turns.append((seen[labels[index]], len(turns), index))
        seen[labels[index]] += 1
    return sorted(index for _, _, index in sorted(turns)[:count])


def _some(items: list[T], count: int, seed: int) -> list[T]:
    """At most `count` random items, in their original order."""
    if len(items) <= count:
        return items
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), count))]
