"""Reading Tiny ImageNet and clips, as they were obtained or as a pack holds them."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_edge.data.spread import evenly
from aselect_runtime.frames import Frame, stretched

SIDE = 64
"""Side of a Tiny ImageNet image."""
CLIP_EVERY = 5


def read_tiny(folder: Path, limit: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 64, 64, 3), BGR, and classes (N,), of `train.tar` or of an unpacked pack."""
    if (folder / "images.npy").is_file():
        tiles, packed = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
        return tiles[:limit], packed[:limit].astype(np.int64)
    classes = [line.split("\t")[0] for line in (folder / "classes.txt").read_text().splitlines()]
    index = {name: i for i, name in enumerate(classes)}
    images, labels = [], []
    with tarfile.open(folder / "train.tar") as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        for member in (members[index] for index in evenly(len(members), min(limit or len(members), len(members)))):
            stream = archive.extractfile(member)
            image = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR) if stream else None
            if image is not None and image.shape == (SIDE, SIDE, 3):
                images.append(image)
                labels.append(index[member.name.split("/")[0]])
    return np.stack(images), np.array(labels)


def clip_frames(path: Path, every: int = CLIP_EVERY) -> list[Frame]:
    """Every `every`-th frame of a clip, at 480 pixels of width."""
    capture = cv2.VideoCapture(str(path))
    frames: list[Frame] = []
    try:
        while True:
            good, frame = capture.read()
            if not good:
                return frames[::every]
            frames.append(stretched(cast("Frame", frame), (270, 480), cv2.INTER_AREA))
    finally:
        capture.release()
