"""Encoders of overlay videos: a hardware encoder if one works, otherwise MPEG-4 on the CPU."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import cv2
import numpy as np

from aselect_runtime.errors import MissingDependencyError
from aselect_runtime.frames import Frame
from aselect_runtime.sources.opencv import open_file

Size = tuple[int, int]
"""Height and width."""

RENDER_NODES = Path("/dev/dri")
"""Folder of the device nodes of GPUs that FFmpeg can encode with."""
JETSON = (
    "appsrc ! queue ! videoconvert ! video/x-raw,format=BGRx ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! "
    "nvv4l2h264enc bitrate=8000000 ! h264parse ! {muxer} ! filesink location={location}"
)
MUXERS = {".mp4": "mp4mux fragment-duration=1000", ".mkv": "matroskamux"}
"""Fragments of one second, because an ordinary .mp4 cannot be played before it is complete."""
TRIAL = 5
"""Frames that an encoder must write and that can be read back before it is used: an Orin Nano has the software of an
encoder that its hardware lacks, and OpenCV does not report when a write fails."""

log = logging.getLogger(__name__)


class Writer(Protocol):
    """A video writer: cv2.VideoWriter, or another class with its methods."""

    def isOpened(self) -> bool: ...  # noqa: N802 - OpenCV's name

    def write(self, image: Frame, /) -> object: ...

    def release(self) -> None: ...


@dataclass(frozen=True)
class Encoder:
    """An encoder; `start` returns a writer to a file, which is not open if this encoder is not available."""

    name: str
    start: Callable[[Path, float, Size], Writer]
    hardware: bool = True


def candidates() -> Iterator[Encoder]:
    """The encoders to try on this machine, the best first."""
    if has_gstreamer():
        yield Encoder("the Jetson's H.264 encoder", _jetson)
    if any(RENDER_NODES.glob("renderD*")):
        yield Encoder("the graphics processor's H.264 encoder", _accelerated)
    yield Encoder("MPEG-4 on the CPU", _mpeg4, hardware=False)


def start(path: Path, fps: float, size: Size) -> Writer | None:
    """A writer to the file with the first encoder that works; None if none does."""
    for encoder in candidates():
        if encoder.hardware and not _passes(encoder, path.suffix, fps, size):
            continue
        writer = encoder.start(path, fps, size)
        if writer.isOpened():
            log.debug("overlay video encoded by %s", encoder.name)
            return writer
    return None


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def count_frames(path: Path) -> int:
    """Number of frames that a video's container states; 0 if it cannot be played."""
    capture = open_file(path)
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
    capture.release()
    return int(count)


def _passes(encoder: Encoder, suffix: str, fps: float, size: Size) -> bool:
    """Whether the encoder writes a video that can be played."""
    frame: Frame = np.zeros((*size, 3), np.uint8)
    with TemporaryDirectory(prefix="aselect-") as folder:
        path = Path(folder, f"trial{suffix}")
        writer = encoder.start(path, fps, size)
        if not writer.isOpened():
            return False
        for _ in range(TRIAL):
            writer.write(frame)
        writer.release()
        return count_frames(path) > 0


def _jetson(path: Path, fps: float, size: Size) -> Writer:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    pipeline = JETSON.format(muxer=MUXERS[path.suffix], location=f'"{escaped}"')
    return cv2.VideoWriter(pipeline, cv2.CAP_GSTREAMER, 0, fps, size[::-1])


def _accelerated(path: Path, fps: float, size: Size) -> Writer:
    if path.suffix != ".mkv":  # OpenCV writes an .mp4 that cannot be played before it is complete
        return cv2.VideoWriter()
    wanted = [cv2.VIDEOWRITER_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_ANY]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"avc1"), fps, size[::-1], wanted)
    if writer.get(cv2.VIDEOWRITER_PROP_HW_ACCELERATION) <= cv2.VIDEO_ACCELERATION_NONE:
        writer.release()  # OpenCV fell back to H.264 on the CPU, which is several times slower than MPEG-4
    return writer


def _mpeg4(path: Path, fps: float, size: Size) -> Writer:
    try:
        from aselect_runtime.sinks.mpeg4 import Mpeg4Writer
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: got no package av, expected it to write videos; pip install av, or write .jsonl instead"
        ) from error
    return Mpeg4Writer(path, fps, size)
