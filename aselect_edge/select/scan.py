"""The scan: one forward pass per image batch and noise level shows every block and component."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.backbones.family import expand
from aselect_edge.errors import InputError
from aselect_edge.fold import fixed_noise
from aselect_edge.frames import Frame, resize
from aselect_edge.records import DataFingerprint, Noise, Resize, Tap

T = TypeVar("T")

UNREADABLE_SHARE = 0.05
"""More unreadable images than this share fail a scan."""


@dataclass(frozen=True)
class Scan:
    """What is scanned: a backbone at noise levels, on frames of one size."""

    backbone: LoadedBackbone
    levels: tuple[Noise, ...]
    imgsz: tuple[int, int]
    resize: Resize = field(default_factory=Resize)
    seed: int = 0
    batch: int = 8
    blocks: int | None = None
    """How many blocks may be looked at, from the first; all of them by default. A device's budget sets it."""
    report: Callable[[str, float], None] = lambda _what, _share: None

    @torch.no_grad()
    def features(self, frames: Sequence[Frame], noise: Noise) -> dict[Tap, Tensor]:
        """Every component of every block, each (N, rows, columns, D), of BGR frames under the fixed noise."""
        model = self.backbone.model
        pixels = np.stack([resize(frame, self.imgsz, self.resize) for frame in frames])
        x0 = self.backbone.x0(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
        x = noise.alpha * x0 + noise.sigma * fixed_noise((model.channels, *x0.shape[2:]), self.seed)
        timestep = torch.full((len(x),), noise.model_timestep)
        grid = self.backbone.grid(self.imgsz)
        depth = min(self.blocks or model.depth, model.depth)
        taps = [Tap(block=block, component=component) for block in range(depth) for component in model.components]
        features = model.features(x, timestep, expand(self.backbone.condition, len(x)), taps)
        return {tap: feature.unflatten(1, grid) for tap, feature in features.items()}

    def passes(self, frames: Sequence[Frame], what: str) -> Iterator[tuple[Noise, slice, dict[Tap, Tensor]]]:
        """All forward passes, noise level by noise level; yields which frames each covers and its features."""
        starts = range(0, len(frames), self.batch)
        total, done = len(self.levels) * len(starts), 0
        for noise in self.levels:
            for start in starts:
                part = slice(start, min(start + self.batch, len(frames)))
                yield noise, part, self.features(frames[part], noise)
                done += 1
                self.report(what, done / total)


def read_all(
    paths: Sequence[Path], read: Callable[[int], T], warn: Callable[[str], None]
) -> tuple[list[T], DataFingerprint]:
    """`read` every index of `paths`, naming and skipping unreadable ones; raises InputError if more than 5 % are."""
    items, digest, unreadable = [], hashlib.sha256(), 0
    for index, path in enumerate(paths):
        try:
            items.append(read(index))
        except InputError as error:
            unreadable += 1
            warn(f"skipped: {error}")
            continue
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    if unreadable > UNREADABLE_SHARE * len(paths):
        raise InputError(
            f"got {unreadable} unreadable images of {len(paths)}, expected at most 5 %; repair or remove them"
        )
    return items, DataFingerprint(images=len(items), sha256=digest.hexdigest())
