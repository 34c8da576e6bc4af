"""A session that takes a fixed time without using the CPU, as with an accelerator, and videos to run it on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np

from aselect_runtime import open_source
from aselect_runtime.frames import Frame
from aselect_runtime.records import ClassInfo, Manifest, Noise, Resize, TensorSpec
from aselect_runtime.results import Arrays
from aselect_runtime.scenes import CLASSES, COLOURS
from benchmarks.runtime.speed import default_video

HEIGHT, WIDTH, CELL = 144, 192, 4


class Sleeping:
    """Answers with stripes of all classes after `milliseconds`, for any input."""

    device = "stand-in"

    def __init__(self, milliseconds: float, batch: int = 1) -> None:
        self._seconds = milliseconds / 1000
        rows = np.arange(HEIGHT, dtype=np.uint8)[:, None] // 12 % len(CLASSES)
        self._map = np.tile(rows, (batch, 1, WIDTH))
        self._confidence = np.full((batch, HEIGHT // CELL, WIDTH // CELL), 0.9, np.float32)

    def infer(self, frames: Frame) -> Arrays:  # noqa: ARG002 - the session's signature
        time.sleep(self._seconds)
        return {"class_map": self._map.copy(), "confidence": self._confidence.copy()}

    def close(self) -> None: ...

    def rate(self, calls: int = 100) -> float:
        """Frames per second of the session alone."""
        start = time.perf_counter()
        for _ in range(calls):
            self.infer(self._map)
        return calls / (time.perf_counter() - start)


def standin_manifest(batch: int = 1) -> Manifest:
    """The manifest of the model that Sleeping replaces: the shipped one's size and classes."""
    names = zip(CLASSES, COLOURS, strict=True)
    return Manifest(
        task="seg",
        classes=tuple(ClassInfo(name=name, colour=colour) for name, colour in names),
        resize=Resize(),
        input=TensorSpec(name="frames", dtype="uint8", shape=(batch, HEIGHT, WIDTH, 3)),
        outputs=(
            TensorSpec(name="class_map", dtype="uint8", shape=(batch, HEIGHT, WIDTH)),
            TensorSpec(name="confidence", dtype="float32", shape=(batch, HEIGHT // CELL, WIDTH // CELL)),
        ),
        precision="fp32",
        taps=(),
        noise=Noise(alpha=1, sigma=0, model_timestep=0),
        files={},
    )


def videos(folder: Path, frames: int) -> dict[str, Path]:
    """The 540p clip, and the same frames enlarged to 720p."""
    small = default_video(folder, frames)
    large = folder / "720p.mp4"
    with open_source(str(small)) as source:
        writer = cv2.VideoWriter(str(large), cv2.VideoWriter.fourcc(*"mp4v"), source.info.fps, (1280, 720))
        for captured in source:
            writer.write(cv2.resize(captured.frame, (1280, 720)))
            if captured.index >= frames:
                break
        writer.release()
    return {"540p": small, "720p": large}


def resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
