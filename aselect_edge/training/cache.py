"""Features of a frozen backbone, computed once and stored on disk: a head then trains without the backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aselect_edge.data import ClassificationData, SegmentationData
from aselect_edge.team import ALONE, Team
from aselect_edge.training.rows import Rows, stored_rows
from aselect_edge.training.views import Views, to_pixels
from aselect_runtime.frames import Frame, resize
from aselect_runtime.local_cache import software
from aselect_runtime.progress import Progress
from aselect_runtime.records import Resize

CHUNK = 8
"""Images per forward pass of the backbone."""
LARGEST = float(np.finfo(np.float16).max)

Extract = Callable[[Tensor], tuple[Tensor, ...]]
"""Pixels (N, 3, H, W) float BGR 0..255 -> one map (N, rows, columns, D) per tap, of the frozen, folded backbone."""


class FrozenViews:
    """Features of random views of a split, used instead of pixels: `recipe.views` per image.

    They are drawn in advance with the recipe's seed and stored in float16 below `folder`. If `recipe.cache_bytes` is
    too small for all, there are fewer: images are taken in random order, so that the stored views are a fair sample.
    """

    def __init__(
        self, views: Views, extract: Extract, key: str, folder: Path, progress: Progress, team: Team = ALONE
    ) -> None:
        """`key` identifies the output of `extract` (backbone, taps, noise) and the data; the views describe themselves.

        A killed run resumes, and a later run with the same key, views and versions of the libraries computes nothing.
        Raises WriteError for a full disk.
        """
        recipe, self.batch_size = views.recipe, views.recipe.batch
        order = np.random.default_rng((recipe.seed, 1)).permutation(len(views))

        def compute(part: range) -> Rows:
            rngs = [np.random.default_rng((recipe.seed, 1, row)) for row in part]
            drawn = [views.view(rng, int(order[row % len(order)])) for rng, row in zip(rngs, part, strict=True)]
            maps = _maps(extract, [frame for frame, _ in drawn])
            return {**maps, "labels": np.stack([np.asarray(label) for _, label in drawn])}

        rows = stored_rows(
            folder,
            _digest("views", key, views.describe()),
            wanted=len(views) * recipe.views,
            limit=recipe.cache_bytes,
            chunk=CHUNK,
            compute=compute,
            what="views",
            progress=progress,
            team=team,
        )
        self.labels = rows.pop("labels")
        self.maps = tuple(rows.values())

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, size: int = 64) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """All views in order, at most `size` at a time, in the form of `batch`."""
        for start in range(0, len(self), size):
            yield self._rows(slice(start, start + size))

    def batch(self, rng: np.random.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        """One map (N, rows, columns, D) per tap, float32, and int64 labels (N, H, W) or (N,)."""
        chosen = np.sort(rng.integers(len(self), size=self.batch_size))  # in the order on disk
        return self._rows(chosen)

    def _rows(self, chosen: NDArray[np.int64] | slice) -> tuple[tuple[Tensor, ...], Tensor]:
        maps = tuple(torch.from_numpy(np.array(stored[chosen])).float() for stored in self.maps)
        return maps, torch.from_numpy(np.array(self.labels[chosen])).long()


class FrozenFrames:
    """Features of a split's whole frames through the deployed resize, to validate a head without the backbone.

    Iterating gives, for every image in order, `(maps, label, index)`: one map (1, rows, columns, D) per tap in float32,
    the label map [H, W] in its own size or the class, and the image's index. It can be iterated repeatedly. Images
    beyond `cache_bytes` are not stored and run through the backbone every time.
    """

    def __init__(
        self,
        data: SegmentationData | ClassificationData,
        imgsz: tuple[int, int],
        how: Resize,
        extract: Extract,
        key: str,
        folder: Path,
        progress: Progress,
        cache_bytes: int = 1_000_000_000,
        team: Team = ALONE,
    ) -> None:
        """`key`, `folder` and errors as in `FrozenViews`; the folder must be another one."""
        self.data, self.imgsz, self.how, self.extract = data, imgsz, how, extract
        rows = stored_rows(
            folder,
            _digest("frames", key, repr(imgsz), how.model_dump_json()),
            wanted=len(data),
            limit=cache_bytes,
            chunk=CHUNK,
            compute=lambda part: _maps(extract, [self._frame(index) for index in part]),
            what="frames",
            progress=progress,
            team=team,
        )
        self.maps = tuple(rows.values())

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, ...], Frame | int, int]]:
        return self.some(range(len(self)))

    def some(self, indices: Sequence[int]) -> Iterator[tuple[tuple[Tensor, ...], Frame | int, int]]:
        """As iterating, over these images only."""
        for index in indices:
            if index < len(self.maps[0]):
                stored = [maps[index : index + 1] for maps in self.maps]
            else:
                stored = list(_maps(self.extract, [self._frame(index)]).values())
            yield tuple(torch.from_numpy(maps.astype(np.float32)) for maps in stored), self._label(index), index

    def _frame(self, index: int) -> Frame:
        return resize(self.data.read(index)[0], self.imgsz, self.how)

    def _label(self, index: int) -> Frame | int:
        return self.data.labels[index] if isinstance(self.data, ClassificationData) else self.data.label(index)


@torch.no_grad()
def _maps(extract: Extract, frames: list[Frame]) -> dict[str, NDArray[np.float16]]:
    """The feature maps of frames at model size by name, in the order of the taps.

    Raw residual streams of DiTs have activations beyond float16's range, which are clipped.
    """
    maps = extract(to_pixels(np.stack(frames)))
    return {f"tap-{n}": each.clamp(-LARGEST, LARGEST).half().cpu().numpy() for n, each in enumerate(maps)}


def _digest(*parts: str) -> str:
    """Of what determines the features, and of the software that computes them."""
    by = software("aselect_edge", "aselect_runtime", "torch", "cv2")
    return hashlib.sha256("\0".join((*parts, by)).encode()).hexdigest()
