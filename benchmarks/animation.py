"""The animation at the top of README: the included street model on a real video, then on a still frame of it.

    python -m benchmarks.animation [--data $ASELECT_DATA] [--out docs/street.webp]

The video is "solidWhiteRight" of udacity/CarND-LaneLines-P1 (MIT, (c) 2016-2019 Udacity, Inc.); the file is written
completely or not at all, and is smaller than 1 MB.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np

from aselect_export import export
from aselect_runtime import Model
from aselect_runtime.errors import GateError
from aselect_runtime.files import atomic_file
from aselect_runtime.frames import Frame

SIZE = (640, 360)
"""Width and height of the animation in pixels."""
EVERY, MOVING = 3, 42
"""Of the video every third frame, 42 of them: five seconds."""
WIPE, HOLD = 18, 6
"""Frames in which the boundary crosses the still, and at rest before and after."""
FRAME_MS = 120
MAX_BYTES = 1_000_000
QUALITY = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ASELECT_DATA", "."))
    parser.add_argument("--out", type=Path, default=Path("docs/street.webp"))
    arguments = parser.parse_args()
    frames = drawn(Path(arguments.data) / "video" / "highway_540p.mp4")
    size = write(frames, arguments.out)
    print(f"{arguments.out}: {len(frames)} frames, {size} bytes")


def drawn(video: Path) -> list[Frame]:
    """BGR frames, uint8 [360, 640, 3]: the video with the overlay, then its last frame from plain to overlay."""
    moving, plain = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Model(export("seg", engine="none", out=f"{folder}/seg").folder) as model,
    ):
        for result in model.stream(str(video)):
            if result.captured.index % EVERY == 0:
                moving.append(scaled(result.plot()))
                plain.append(scaled(result.frame))
            if len(moving) == MOVING:
                break
    still = [wiped(plain[-1], moving[-1], share) for share in np.linspace(0, 1, WIPE)]
    return [*moving, *[still[0]] * HOLD, *still, *[still[-1]] * HOLD]


def scaled(image: Frame) -> Frame:
    """The image at the animation's size."""
    return np.asarray(cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA), np.uint8)


def wiped(before: Frame, after: Frame, share: float) -> Frame:
    """`after` to the left of a white line at `share` of the width, `before` to the right of it."""
    image, edge = before.copy(), round(share * before.shape[1])
    image[:, :edge] = after[:, :edge]
    image[:, max(0, edge - 1) : edge + 1] = 255
    return image


def write(frames: list[Frame], path: Path) -> int:
    """Write an animated WebP that repeats forever; return its bytes. Raises GateError if it has 1 MB or more."""
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [FRAME_MS] * len(frames)
    done, content = cv2.imencodeanimation(".webp", animation, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done or len(content) >= MAX_BYTES:
        raise GateError(f"{path}: got {len(content)} bytes, expected fewer than {MAX_BYTES}; lower QUALITY or MOVING")
    with atomic_file(path) as partial:
        partial.write_bytes(content.tobytes())
    return len(content)


if __name__ == "__main__":
    main()
