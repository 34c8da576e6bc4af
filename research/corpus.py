"""The pretraining corpus: training pictures in memory, served as random crops."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime import scenes
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, list_images, read_image

NO_CLASS = -1
UNLABELLED = 255


@dataclass(frozen=True)
class Source:
    """Pictures of one origin and how often a batch draws from it."""

    pictures: tuple[Frame, ...]
    labels: NDArray[np.int64]
    weight: float
    crop: tuple[float, float]
    """Smallest and largest side of a crop, as a share of what fits in the picture."""
    maps: tuple[Frame, ...] = ()
    """A class map (H, W) of each picture, or none at all."""


class Crops(NamedTuple):
    """What a batch holds; NO_CLASS and UNLABELLED where nothing is known."""

    images: NDArray[np.uint8]
    """(N, height, width, 3) BGR."""
    labels: NDArray[np.int64]
    """(N,)"""
    maps: NDArray[np.uint8]
    """(N, height, width)"""


@dataclass(frozen=True)
class Corpus:
    """Several sources; no validation or test picture is ever read."""

    sources: tuple[Source, ...]

    @classmethod
    def load(cls, data: Path, limit: int = 50_000) -> Corpus:
        """Read the training pictures below `data`; raises InputError if none of the sets is there."""
        sources = []
        for name, weight, crop in (("camvid/train/images", 0.35, (0.35, 1.0)), ("cub40/train", 0.1, (0.4, 1.0))):
            if (data / name).is_dir():
                pictures = tuple(read_image(path) for path in list_images(data / name))
                sources.append(Source(pictures, np.full(len(pictures), NO_CLASS), weight, crop))
        if (data / "tinyimagenet/train.tar").is_file():
            sources.append(_tinyimagenet(data / "tinyimagenet", limit))
        clips = tuple(frame for path in sorted((data / "video").glob("*.mp4")) for frame in _clip(path))
        if clips:
            sources.append(Source(clips, np.full(len(clips), NO_CLASS), 0.1, (0.35, 1.0)))
        if not sources:
            raise InputError(f"{data}: got none of camvid, cub40, tinyimagenet, video; expected at least one of them")
        return cls((*sources, _streets(600)))

    def batch(self, rng: np.random.Generator, count: int, size: tuple[int, int]) -> Crops:
        """Random crops (height, width) of random pictures."""
        weights = np.array([source.weight for source in self.sources])
        images, labels = np.empty((count, *size, 3), np.uint8), np.full(count, NO_CLASS)
        maps = np.full((count, *size), UNLABELLED, np.uint8)
        for i in range(count):
            source = self.sources[rng.choice(len(self.sources), p=weights / weights.sum())]
            index = rng.integers(len(source.pictures))
            crop = random_crop(rng, source.pictures[index].shape[:2], size, source.crop)
            images[i], labels[i] = crop.picture(source.pictures[index]), source.labels[index]
            if source.maps:
                maps[i] = crop.labels(source.maps[index])
        return Crops(images, labels, maps)


@dataclass(frozen=True)
class Crop:
    """A part of a picture, brought to `size` (height, width)."""

    rows: slice
    columns: slice
    mirrored: bool
    size: tuple[int, int]

    def picture(self, picture: Frame) -> Frame:
        """The part of a picture (H, W, 3)."""
        shrinks = self.rows.stop - self.rows.start > self.size[0]
        return self._resized(picture, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def labels(self, labels: Frame) -> Frame:
        """The same part of its class map (H, W)."""
        # The exact one: plain INTER_NEAREST takes a cell's corner, half a cell beside what the picture shows.
        return self._resized(labels, cv2.INTER_NEAREST_EXACT)

    def _resized(self, whole: Frame, how: int) -> Frame:
        part = whole[self.rows, self.columns]
        part = np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)
        return cv2.resize(part, self.size[::-1], interpolation=how)  # type: ignore[return-value]


def random_crop(
    rng: np.random.Generator, picture: tuple[int, ...], size: tuple[int, int], share: tuple[float, float]
) -> Crop:
    """A crop of random scale and place in a picture (height, width), shaped like `size`; half are mirrored."""
    height, width = picture
    fit = min(height / size[0], width / size[1]) * rng.uniform(*share)
    h, w = max(1, min(height, round(size[0] * fit))), max(1, min(width, round(size[1] * fit)))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return Crop(slice(top, top + h), slice(left, left + w), bool(rng.random() < 0.5), size)


def _tinyimagenet(folder: Path, limit: int) -> Source:
    classes = [line.split("\t")[0] for line in (folder / "classes.txt").read_text().splitlines()]
    index = {name: i for i, name in enumerate(classes)}
    pictures, labels = [], []
    with tarfile.open(folder / "train.tar") as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        for member in members[:: max(1, len(members) // limit)]:
            stream = archive.extractfile(member)
            picture = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR) if stream else None
            if picture is not None:
                pictures.append(picture)
                labels.append(index[member.name.split("/")[0]])
    return Source(tuple(pictures), np.array(labels), 0.45, (0.7, 1.0))  # type: ignore[arg-type]


def _streets(count: int, frames: int = 4) -> Source:
    """A pool, because drawing a new street takes longer than training on it."""
    streets = [scenes.Street(seed=seed, height=180, width=240) for seed in range(count)]
    drawn = [street.frame(index * 200) for street in streets for index in range(frames)]
    pictures, maps = zip(*drawn, strict=True)
    return Source(pictures, np.full(len(pictures), NO_CLASS), 0.25, (0.35, 1.0), maps)


def _clip(path: Path, every: int = 5) -> list[Frame]:
    capture = cv2.VideoCapture(str(path))
    frames: list[Frame] = []
    try:
        while True:
            good, frame = capture.read()
            if not good:
                return frames[::every]
            frames.append(cv2.resize(frame, (480, 270), interpolation=cv2.INTER_AREA))  # type: ignore[arg-type]
    finally:
        capture.release()
