"""What the included street model makes of a video that it was not trained on: docs/models.jpg, for the model card.

    python -m benchmarks.model_images [--data $ASELECT_DATA] [--out docs/models.jpg]

Three frames above their class maps. The video is "solidWhiteRight" of udacity/CarND-LaneLines-P1 (MIT, (c) 2016-2019
Udacity, Inc.). Its labels do not exist; every fifth frame was among the unlabelled images of the backbone's pretraining
(`research.pack.CLIP_EVERY`), and these three are not.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_edge.bundle.model import upsample
from aselect_edge.training.views import to_pixels
from aselect_runtime.errors import InputError
from aselect_runtime.files import atomic_write
from aselect_runtime.frames import Frame, resize
from research.tiny import CLIP_EVERY

INDICES = (32, 112, 197)
WIDTH, GAP = 320, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ASELECT_DATA", "."))
    parser.add_argument("--out", type=Path, default=Path("docs/models.jpg"))
    arguments = parser.parse_args()
    image = drawn(Path(arguments.data) / "video" / "highway_540p.mp4")
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    atomic_write(arguments.out, content)
    print(f"{arguments.out}: {len(content)} bytes")


def drawn(video: Path, indices: tuple[int, ...] = INDICES) -> Frame:
    """A row of frames above a row of their overlaid class maps, BGR; raises InputError for a video without them."""
    assert all(index % CLIP_EVERY for index in indices), "a frame of the pretraining"
    bundle = load_bundle(SHIPPED["seg"])
    model = bundle.deployed()
    colours = np.array([info.colour[::-1] for info in bundle.record.classes], np.uint8)
    columns = []
    for frame in read(video, indices):
        small = cv2.resize(frame, (WIDTH, round(WIDTH * frame.shape[0] / frame.shape[1])), interpolation=cv2.INTER_AREA)
        with torch.no_grad():
            logits = model(to_pixels(resize(frame, bundle.record.imgsz, bundle.record.resize)[None]))
        classes = upsample(logits, (small.shape[0], small.shape[1])).argmax(1)[0].numpy()
        mixed = cv2.addWeighted(small, 0.45, colours[classes], 0.55, 0)
        columns.append(np.vstack([small, np.full((GAP, WIDTH, 3), 255, np.uint8), mixed]))
    between = np.full((len(columns[0]), GAP, 3), 255, np.uint8)
    return np.hstack([part for column in columns for part in (between, column)][1:])


def read(video: Path, indices: tuple[int, ...]) -> list[Frame]:
    """The frames of a video at `indices`, in ascending order."""
    capture, found = cv2.VideoCapture(str(video)), []
    for index in range(max(indices) + 1):
        done, frame = capture.read()
        if not done:
            raise InputError(f"{video}: got {index} frames, expected {max(indices) + 1} or more; give the data folder")
        if index in indices:
            found.append(np.asarray(frame, np.uint8))
    return found


if __name__ == "__main__":
    main()
