"""From a folder to `selection.json`: what `aselect-select` does."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from aselect_edge.backbones import load_backbone
from aselect_edge.data import open_segmentation
from aselect_edge.frames import list_images, read_image
from aselect_edge.records import Selection
from aselect_edge.select.by_hfr import select_by_hfr
from aselect_edge.select.by_probe import select_by_probe
from aselect_edge.select.scan import Scan, read_all

Strategy = Literal["hfr", "probe"]
T = TypeVar("T")


def select_tap(
    source: str,
    data: Path,
    strategy: Strategy,
    images: int,
    imgsz: tuple[int, int] | None = None,
    timesteps: list[int] | None = None,
    blocks: int | None = None,
    seed: int = 0,
    report: Callable[[str, float], None] = lambda _what, _share: None,
    warn: Callable[[str], None] = lambda _line: None,
) -> Selection:
    """Scan a backbone on (at most) `images` frames of `data` and choose by `strategy`.

    `data` is a split root (its `train` is used, and `val` to score the probe) or, for `hfr`, any image folder.
    """
    backbone = load_backbone(source, warn=warn)
    side = backbone.side
    chosen = timesteps or backbone.schedule.candidates()
    scan = Scan(
        backbone,
        backbone.schedule.levels(chosen),
        imgsz or (side, side),
        seed=seed,
        report=report,
        blocks=blocks,
    )
    backbone.grid(scan.imgsz)  # a size the family cannot take is refused before anything is read
    if strategy == "hfr":
        folder = next((f for f in (data / "train" / "images", data / "train") if f.is_dir()), data)
        paths = _some(list_images(folder), images, seed)
        frames, fingerprint = read_all(paths, lambda n: read_image(paths[n]), warn)
        return select_by_hfr(scan, frames, fingerprint)
    train, val = open_segmentation(data, "train"), open_segmentation(data, "val")
    chosen_train = _some(list(range(len(train))), images, seed)
    chosen_val = _some(list(range(len(val))), images, seed)
    fit, fingerprint = read_all([train.pairs[i][0] for i in chosen_train], lambda n: train.read(chosen_train[n]), warn)
    score, _ = read_all([val.pairs[i][0] for i in chosen_val], lambda n: val.read(chosen_val[n]), warn)
    return select_by_probe(scan, fit, score, len(train.classes), train.ignore_index, fingerprint)


def _some(items: list[T], count: int, seed: int) -> list[T]:
    """At most `count` items, spread at random, in their own order."""
    if len(items) <= count:
        return items
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), count))]
