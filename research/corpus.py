"""A training corpus on the device: images as uint8 tensors, with cropping and colour changes on the device too.

Reading, cropping and copying on the CPU would be slower than the training step, so all data stay on the device after
loading. Every source is one tensor of images of one size.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aselect_runtime import scenes
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, read_image
from aselect_runtime.media import list_images
from research.tiny import clip_frames, read_tiny

NO_CLASS = -1
FULL = (360, 480)
"""Height and width of stored street scenes, as in CamVid."""
BIRD = (256, 256)


@dataclass(frozen=True)
class Source:
    """Images of one data set on the device."""

    name: str
    images: Tensor
    """(N, 3, H, W) uint8, RGB."""
    labels: Tensor
    """(N,) class, or NO_CLASS."""
    weight: float
    """Share of a batch of square crops."""
    frame_weight: float
    """Share of a batch of full frames; 0 for images that are not street scenes."""
    crop: tuple[float, float]
    """Smallest and largest side of a square crop, as a share of the largest that fits."""


class Crops(NamedTuple):
    """A batch on the device."""

    pixels: Tensor
    """(N, 3, H, W) RGB, 0..255, float."""
    labels: Tensor
    """(N,)"""


@dataclass(frozen=True)
class Corpus:
    """All training images, by source."""

    sources: tuple[Source, ...]

    @property
    def count(self) -> int:
        """Number of images of all sources."""
        return sum(len(source.images) for source in self.sources)

    def batch(self, generator: torch.Generator, count: int, size: tuple[int, int], frames: bool) -> Crops:
        """Crops of `size`, each source by its share; with `frames`, nearly whole street scenes only."""
        weights = [source.frame_weight if frames else source.weight for source in self.sources]
        shares = _shares(weights, count)
        parts = []
        for source, share in zip(self.sources, shares, strict=True):
            if share:
                scale = (0.75, 1.0) if frames else source.crop
                chosen = torch.randint(len(source.images), (share,), generator=generator, device=generator.device)
                pixels = random_crops(generator, source.images[chosen], size, scale)
                parts.append(Crops(pixels, source.labels[chosen]))
        pixels = recoloured(generator, torch.cat([part.pixels for part in parts]))
        return Crops(pixels, torch.cat([part.labels for part in parts]))


def load_corpus(
    data: Path, device: torch.device, streets: int = 1200, tiny: int | None = None, workers: int = 8
) -> Corpus:
    """Read the training images below `data` and draw synthetic streets; no image of val or test is read.

    Raises InputError if none of camvid, cub40, tinyimagenet and video is there.
    """
    sources: list[Source] = []
    with ProcessPoolExecutor(workers) as pool:

        def add(
            name: str, images: list[Frame], size: tuple[int, int], weight: float, frame: float, crop: float
        ) -> None:
            resized = [cv2.resize(p, size[::-1], interpolation=cv2.INTER_AREA) for p in images]
            sources.append(_source(name, np.stack(resized).astype(np.uint8), None, weight, frame, (crop, 1.0), device))

        if (data / "camvid/train/images").is_dir():
            images = list(pool.map(read_image, list_images(data / "camvid/train/images"), chunksize=16))
            add("camvid", images, FULL, 0.15, 0.6, 0.4)
        if (data / "cub40/train").is_dir():
            birds = list(pool.map(read_image, list_images(data / "cub40/train"), chunksize=16))
            add("cub40", birds, BIRD, 0.28, 0.0, 0.35)
        if (data / "tinyimagenet").is_dir():
            pixels, labels = read_tiny(data / "tinyimagenet", tiny)
            sources.append(_source("tinyimagenet", pixels, labels, 0.45, 0.0, (0.6, 1.0), device))
        if (data / "video").is_dir():
            clips = [frame for path in sorted((data / "video").glob("*.mp4")) for frame in clip_frames(path)]
            clips += [read_image(path) for path in sorted((data / "video").glob("*.bmp"))]
            add("video", clips, FULL, 0.05, 0.2, 0.4)
        if not sources:
            raise InputError(f"{data}: got none of camvid, cub40, tinyimagenet, video; expected at least one of them")
        add("streets", list(pool.map(street, range(streets), chunksize=8)), (240, 320), 0.07, 0.2, 0.4)
    return Corpus(tuple(sources))


def street(index: int) -> Frame:
    """The frame of `street_pair`."""
    return street_pair(index)[0]


def street_pair(index: int, height: int = 240, width: int = 320) -> tuple[Frame, Frame]:
    """Frame and class map of a synthetic street; each index shows another scene."""
    return scenes.Street(seed=index % 600, height=height, width=width).frame(index * 389 % 2000)


def random_crops(
    generator: torch.Generator,
    images: Tensor,
    size: tuple[int, int],
    share: tuple[float, float],
    stretch: float = 1.25,
) -> Tensor:
    """Random crops, half of them mirrored, of images (N, 3, H, W) uint8, at `size`; float, 0..255."""
    return sample(images, crop_boxes(generator, images.shape, size, share, stretch), size, "bilinear")


def crop_boxes(
    generator: torch.Generator,
    shape: tuple[int, ...],
    size: tuple[int, int],
    share: tuple[float, float],
    stretch: float,
) -> Tensor:
    """Affine maps (N, 2, 3) from a crop's coordinates to its image's, both -1..1, for `affine_grid`."""
    count, (height, width), device = shape[0], shape[2:4], generator.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=device)

    fit = min(height / size[0], width / size[1]) * uniform(*share)
    ratio = torch.exp(uniform(-1, 1) * np.log(stretch) / 2)
    tall = (size[0] * fit * ratio / height).clamp(max=1.0)
    wide = (size[1] * fit / ratio / width).clamp(max=1.0)
    down, right = uniform(-1, 1) * (1 - tall), uniform(-1, 1) * (1 - wide)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(tall)
    rows = [torch.stack([wide * mirror, zero, right], dim=1), torch.stack([zero, tall, down], dim=1)]
    return torch.stack(rows, dim=1)


def sample(images: Tensor, boxes: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Images (N, C, H, W) sampled through affine maps (N, 2, 3), at `size`; float."""
    grid = F.affine_grid(boxes, [len(images), 1, *size], align_corners=False)
    return F.grid_sample(images.float(), grid, mode=mode, padding_mode="border", align_corners=False)


def recoloured(generator: torch.Generator, pixels: Tensor) -> Tensor:
    """Random brightness, contrast, saturation and white balance of pixels (N, 3, H, W), 0..255."""
    count, device = len(pixels), pixels.device

    def uniform(*shape: int) -> Tensor:
        return 1 + 0.3 * (2 * torch.rand(count, *shape, generator=generator, device=device) - 1)

    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + (pixels - grey) * uniform(1, 1, 1)
    pixels = (pixels - 127.5) * uniform(1, 1, 1) + 127.5 * uniform(1, 1, 1)
    balance = 1 + (uniform(3, 1, 1) - 1) * 0.3
    return (pixels * balance).clamp(0, 255)


def mixed(generator: torch.Generator, pixels: Tensor, share: float) -> Tensor:
    """The first `share` of a batch blended with other images of it (mixup, arXiv 1710.09412).

    The teacher's output for a blend is the target; more varied images make the student match the teacher's function
    instead of its answers to a few images (Beyer et al., arXiv 2106.05237).
    """
    count = int(len(pixels) * share)
    if not count:
        return pixels
    order = torch.randperm(len(pixels), generator=generator, device=pixels.device)[:count]
    weight = torch.rand(count, 1, 1, 1, generator=generator, device=pixels.device) * 0.5
    return torch.cat([torch.lerp(pixels[:count], pixels[order], weight), pixels[count:]])


def _source(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    weight: float,
    frame_weight: float,
    crop: tuple[float, float],
    device: torch.device,
) -> Source:
    rgb = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).permute(0, 3, 1, 2).contiguous().to(device)
    given = torch.full((len(rgb),), NO_CLASS) if labels is None else torch.from_numpy(labels)
    return Source(name, rgb, given.to(device), weight, frame_weight, crop)


def _shares(weights: list[float], count: int) -> list[int]:
    """`count` split by weight; the largest source gets the rounding remainder."""
    total = sum(weights)
    shares = [int(count * weight / total) for weight in weights]
    shares[int(np.argmax(weights))] += count - sum(shares)
    return shares
