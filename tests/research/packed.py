"""A folder of tiny made-up images in the layout that the GPU run packs."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import torch

from aselect_edge.training.efficientnet import EfficientNetLite0
from research.teacher import save_teacher


def write_data(root: Path, streets: Path, birds: int = 4) -> Path:
    """`streets` is a labelled street folder; birds are grey rectangles, Tiny ImageNet grey tiles."""
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    (root / "camvid").symlink_to(streets)
    for split in ("train", "val"):
        for name in ("jay", "wren"):
            folder = root / "cub40" / split / name
            folder.mkdir(parents=True)
            for index in range(birds):
                cv2.imwrite(str(folder / f"{index}.jpg"), rng.integers(0, 255, (40, 50, 3), np.uint8))
    classes = [{"id": index, "name": name} for index, name in enumerate(("jay", "wren"))]
    (root / "cub40" / "classes.json").write_text(json.dumps({"classes": classes}))
    tiny = root / "tinyimagenet"
    tiny.mkdir()
    (tiny / "classes.txt").write_text("n1\tcat\nn2\tdog\n")
    with tarfile.open(tiny / "train.tar", "w") as archive:
        for index in range(12):
            path = root / f"{index}.png"
            cv2.imwrite(str(path), np.full((64, 64, 3), 20 * index, np.uint8))
            archive.add(path, f"n{1 + index % 2}/{index}.png")
            path.unlink()
    return root


def write_teacher(path: Path) -> Path:
    """Random weights in the teacher's format."""
    torch.manual_seed(0)
    save_teacher(EfficientNetLite0(), path)
    return path
