"""A labelled data set of synthetic streets."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from aselect_runtime.scenes import CLASSES, COLOURS, Street


def write_streets(data: Path, train: int = 6, val: int = 3) -> Path:
    """A folder as CamVid's: streets in train and val, 48x64, eleven classes; sky and road alone cover half."""
    for split, first, count in (("train", 0, train), ("val", train, val)):
        for kind in ("images", "labels"):
            (data / split / kind).mkdir(parents=True)
        for number in range(count):
            image, label = Street(first + number, 48, 64).frame(40)
            cv2.imwrite(str(data / split / "images" / f"{number}.png"), image)
            cv2.imwrite(str(data / split / "labels" / f"{number}.png"), label)
    entries = [{"id": i, "name": n, "color_rgb": c} for i, (n, c) in enumerate(zip(CLASSES, COLOURS, strict=True))]
    (data / "classes.json").write_text(json.dumps({"classes": entries, "ignore_index": 255}))
    return data
