"""What encodes an overlay video: hardware where there is some that works, else MPEG-4 on the CPU."""

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
"""Where Linux shows the graphics processors that FFmpeg can encode with."""
JETSON = (
    "appsrc ! queue ! videoconvert ! video/x-raw,format=BGRx ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! "
    "nvv4l2h264enc bitrate=8000000 ! h264parse ! {muxer} ! filesink location={location}"
)
MUXERS = {".mp4": "mp4mux fragment-duration=1000", ".mkv": "matroskamux"}
"""Fragments of a second: an ordinary .mp4 cannot be played before it is complete."""
TRIAL = 5
"""Frames that an encoder must write and that can be read back before a video is left to it: an Orin Nano has the
software of an encoder that it does not have, and OpenCV tells nobody when a write fails."""

log = logging.getLogger(__name__)


class Writer(Protocol):
    """What writes a video: cv2.VideoWriter, or another with its methods."""

    def isOpened(self) -> bool: ...  # noqa: N802 - OpenCV's name

    def write(self, image: Frame, /) -> object: ...

    def release(self) -> None: ...


@dataclass(frozen=True)
class Encoder:
    """`start` begins a file of a rate and a size, by a writer that is not open where this encoder is not there."""

    name: str
    start: Callable[[Path, float, Size], Writer]
    hardware: bool = True


def candidates() -> Iterator[Encoder]:
    """What to try on this machine, the best first."""
    if has_gstreamer():
        yield Encoder("the Jetson's H.264 encoder", _jetson)
    if any(RENDER_NODES.glob("renderD*")):
        yield Encoder("the graphics processor's H.264 encoder", _accelerated)
    yield Encoder("MPEG-4 on the CPU", _mpeg4, hardware=False)


def start(path: Path, fps: float, size: Size) -> Writer | None:
    """A writer to the file by the first candidate that works; None where there is none."""
    for encoder in candidates():
        if encoder.hardware and not _passes(encoder, path.suffix, fps, size):
            continue
        writer = encoder.start(path, fps, size)
        if writer.isOpened():
            log.debug("overlay video by %s", encoder.name)
            return writer
    return None


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def count_frames(path: Path) -> int:
    """How many frames a video says that it has; 0 where it cannot be played."""
    capture = open_file(path)
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
    capture.release()
    return int(count)


def _passes(encoder: Encoder, suffix: str, fps: float, size: Size) -> bool:
    """Whether it writes a video."""
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
        writer.release()  # OpenCV fell back to H.264 on the CPU, which costs several times what MPEG-4 does
    return writer


def _mpeg4(path: Path, fps: float, size: Size) -> Writer:
    try:
        from aselect_runtime.sinks.mpeg4 import Mpeg4Writer
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: got no package av, expected it to write videos; pip install av, or write .jsonl instead"
        ) from error
    return Mpeg4Writer(path, fps, size)
