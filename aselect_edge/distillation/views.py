"""Views of images without labels, of which a stem learns."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aselect_edge.data.augment import Augmentation, classified_view
from aselect_edge.selection.evidence import Images, open_images
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.views import to_pixels
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, resize
from aselect_runtime.records import Resize, Task

FEWEST = 10
"""Images: a tenth of them is held out."""


@dataclass(frozen=True)
class UnlabelledViews:
    """Augmented views of images, or with `augmentation` None the whole images.

    Beside a view stands, in place of a label, the view itself: what is kept of it are features and pixels.
    """

    images: Images
    imgsz: tuple[int, int]
    how: Resize
    recipe: Recipe
    augmentation: Augmentation | None

    def __len__(self) -> int:
        return len(self.images)

    def view(self, rng: np.random.Generator, index: int | None = None) -> tuple[Frame, Frame]:
        """One frame [H, W, 3] at model size, twice."""
        frame = self.images.reads[int(rng.integers(len(self))) if index is None else index]()
        if self.augmentation is None:
            view = resize(frame, self.imgsz, self.how)
        else:
            view = classified_view(rng, frame, self.imgsz, self.how, self.augmentation)
        return view, view

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pixels (N, 3, H, W) float BGR 0..255, and the same as int64 (N, H, W, 3)."""
        frames = np.stack([self.view(rng)[0] for _ in range(self.recipe.batch)])
        return to_pixels(frames), torch.from_numpy(frames).long()

    def describe(self) -> str:
        """How the views are made, and of what."""
        content = {
            "imgsz": self.imgsz,
            "resize": self.how.model_dump(),
            "augmentation": None if self.augmentation is None else asdict(self.augmentation),
            "seed": self.recipe.seed,
            "images": self.images.fingerprint.sha256,
            "count": len(self),
        }
        return json.dumps(content, sort_keys=True)


def open_views(
    data: Path, count: int, imgsz: tuple[int, int], how: Resize, recipe: Recipe, task: Task
) -> tuple[UnlabelledViews, UnlabelledViews]:
    """Views to learn from, and the whole images of a tenth of the data that is held out; at most `count` images.

    Of a folder the tenth is drawn at random, of a video it is the end, because neighbouring frames are nearly the same.
    Raises InputError for data with fewer than FEWEST images.
    """
    images = open_images(data, count, recipe.seed, task)
    if len(images) < FEWEST:
        raise InputError(
            f"{data}: got {len(images)} images to distil on, expected at least {FEWEST}, better thousands; add more",
            parameter=("data", "images"),
        )
    order = list(range(len(images)))
    if not data.is_file():
        random.Random(recipe.seed).shuffle(order)
    held_out = max(1, len(order) // 10)
    part = [
        replace(images, reads=tuple(images.reads[i] for i in sorted(some)))
        for some in (order[:-held_out], order[-held_out:])
    ]
    plain = replace(recipe, views=1)
    return (
        UnlabelledViews(part[0], imgsz, how, recipe, Augmentation(erased=0.0)),
        UnlabelledViews(part[1], imgsz, how, plain, None),
    )
