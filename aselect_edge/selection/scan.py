"""The scan: one forward pass per image and noise level gives every block and component."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.backbones.family import expand
from aselect_edge.fold import fixed_noise
from aselect_edge.selection.evidence import Images
from aselect_edge.selection.resume import Store
from aselect_edge.team import Team
from aselect_runtime.errors import InputError
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Component, Noise, Resize, Score, Tap

log = logging.getLogger(__name__)

T = TypeVar("T")
Look = Callable[[Tensor, Noise, range], Tensor]
"""Values (taps, width) to sum, computed from a batch x0 (N, C, h, w), the images of `range`, at a noise level."""


@dataclass
class Tally:
    """Cost in this process: forward passes (one per image and noise level), and seconds before a resume."""

    passes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Scan:
    """What is scanned and how: a backbone, its noise levels and taps, the frame size, and the processes."""

    backbone: LoadedBackbone
    levels: tuple[Noise, ...]
    taps: tuple[Tap, ...]
    imgsz: tuple[int, int]
    resize: Resize = field(default_factory=Resize)
    seed: int = 0
    batch: int = 8
    team: Team = field(default_factory=Team)
    store: Store = field(default_factory=Store)
    progress: Progress = silent
    tally: Tally = field(default_factory=Tally)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns; raises InputError for a size that the backbone does not support."""
        return self.backbone.grid(self.imgsz)

    @cached_property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.backbone.model.parameters()).device

    @torch.no_grad()
    def x0(self, images: Images, part: range) -> Tensor:
        """The model's clean input (N, C, h, w) of the images of `part`."""
        frames = images.frames(part, self.imgsz, self.resize)
        return self.backbone.x0(frames.permute(0, 3, 1, 2).float().to(self.device))

    @torch.no_grad()
    def walk(
        self, x0: Tensor, noise: Noise, eps: Tensor | None = None, taps: Sequence[Tap] | None = None
    ) -> Iterator[tuple[Tap, Tensor]]:
        """Yield every tap (all of the scan's by default) of a batch, each (N, rows, columns, D), one after the other.

        `eps` is the noise, shaped like x0; by default the single draw that is the constant of a deployed model.
        Raises InputError if the number of tokens does not match the grid, or if features are not finite.
        """
        if eps is None:
            eps = fixed_noise((x0.shape[1], x0.shape[2], x0.shape[3]), self.seed)
        x = noise.alpha * x0 + noise.sigma * eps.to(x0)
        timestep = torch.full((len(x),), noise.model_timestep, device=x.device)
        condition = expand(self.backbone.condition, len(x), x.device)
        self.tally.passes += len(x)
        rows, columns = self.grid
        for tap, feature in self.backbone.model.walk(x, timestep, condition, self.taps if taps is None else taps):
            if feature.shape[1] != rows * columns:
                raise InputError(
                    f"got {feature.shape[1]} tokens at {tap}, expected {rows}x{columns} for frames of "
                    f"{self.imgsz[0]}x{self.imgsz[1]}; change the size",
                    parameter="imgsz",
                )
            if not feature.sum(dtype=torch.float32).isfinite():
                raise InputError(
                    f"features of {tap} hold NaN or infinite values at sigma {noise.sigma:.3f}, expected finite ones; "
                    "use another backbone or check its weights"
                )
            yield tap, feature.unflatten(1, self.grid)

    def features(
        self, x0: Tensor, noise: Noise, eps: Tensor | None = None, taps: Sequence[Tap] | None = None
    ) -> dict[Tap, Tensor]:
        """All features that `walk` yields, in the order of the taps."""
        found = dict(self.walk(x0, noise, eps, taps))
        return {tap: found[tap] for tap in (self.taps if taps is None else taps)}

    def readings(self, x0: Tensor, noise: Noise, read: Callable[[Tensor], Tensor]) -> Tensor:
        """`read` of each tap's feature, (taps, …); the features of one block are in memory at a time."""
        found = {tap: read(feature) for tap, feature in self.walk(x0, noise)}
        return torch.stack([found[tap] for tap in self.taps])

    def check_company(self, images: Images) -> None:
        """Raise InputError if a batch of one image would be centred over its images."""
        if len(images) < 2 or self.batch < 2:
            raise InputError(
                f"got {len(images)} images in batches of {self.batch}, expected two or more, to separate an image from "
                "the mean of all; use more",
                parameter=("images", "batch"),
            )

    def fresh_noise(self, x0: Tensor, part: range, draw: int) -> Tensor:
        """Independent noise for every image and draw, the same in every process; shaped like x0."""
        shape = tuple(x0.shape[1:])
        draws = [np.random.Generator(np.random.PCG64([self.seed, draw, index])) for index in part]
        return torch.from_numpy(np.stack([rng.standard_normal(shape, np.float32) for rng in draws])).to(x0)

    def sweep(self, images: Images, look: Look, width: int, what: str) -> Tensor:
        """Running sums (levels, taps, width) float64 of `look` over all images and levels; only these are in memory.

        Divided among the team by image batches, and resumed from the store.
        """
        units = [(part, level) for part in batches(len(images), self.batch) for level in range(len(self.levels))]
        loaded: tuple[range, Tensor] | None = None

        def step(sums: Tensor, unit: tuple[range, int]) -> None:
            nonlocal loaded
            part, level = unit
            if loaded is None or loaded[0] != part:
                loaded = part, self.x0(images, part)
            sums[level] += look(loaded[1], self.levels[level], part).cpu().double()

        shape = (len(self.levels), len(self.taps), width)
        return self._resumed(torch.zeros(shape, dtype=torch.float64), units, step, what)

    def by_level(self, score: Callable[[Noise], Sequence[float]], what: str) -> Tensor:
        """Scores (levels, taps) if a level is scored as a unit; divided among the team, resumed from the store."""

        def step(scores: Tensor, level: int) -> None:
            scores[level] = torch.tensor(list(score(self.levels[level])), dtype=torch.float64)

        shape = (len(self.levels), len(self.taps))
        return self._resumed(torch.zeros(shape, dtype=torch.float64), range(len(self.levels)), step, what)

    def _resumed(self, sums: Tensor, units: Sequence[T], step: Callable[[Tensor, T], None], what: str) -> Tensor:
        """`sums` after a `step` for each of this process's units, summed over the team."""
        mine = self.team.share(units)
        began, kept = time.monotonic(), self.store.load()
        earlier = Tally(int(kept["passes"]), float(kept["seconds"])) if kept else Tally()
        sums, done = (kept["sums"], int(kept["done"])) if kept else (sums, 0)
        before = self.tally.passes
        if 0 < done < len(mine):
            log.info("resuming the scan after %d of %d parts", done, len(mine))
        for unit in mine[done:]:
            step(sums, unit)
            done += 1
            passes, seconds = earlier.passes + self.tally.passes - before, earlier.seconds + time.monotonic() - began
            facts = {"done": done, "passes": passes, "seconds": seconds}
            self.store.keep({"sums": sums, **{name: torch.tensor(value) for name, value in facts.items()}})
            self.progress(what, done / len(mine))
        self.tally.passes += earlier.passes
        self.tally.seconds += earlier.seconds
        return self.team.sum(sums)

    def scores(self, values: Tensor) -> tuple[Score, ...]:
        """The table (levels, taps) as score records."""
        return tuple(
            Score(noise=noise, tap=tap, value=float(value))
            for noise, row in zip(self.levels, values, strict=True)
            for tap, value in zip(self.taps, row, strict=True)
        )


def batches(count: int, size: int) -> list[range]:
    """The indices 0 to count - 1 in parts of `size`; a last part with one index is merged with the one before."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    ends = [*starts[1:], count]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def candidate_taps(components: Sequence[Component], depth: int, blocks: int | None) -> tuple[Tap, ...]:
    """Every component of the first `blocks` blocks (of all blocks for None)."""
    return tuple(Tap(block=b, component=c) for b in range(min(blocks or depth, depth)) for c in components)
