"""Small videos and images that show which frame they are: of frame n, n eighths from the left are white."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import av
import cv2
import numpy as np
import pytest

from aselect_runtime.frames import Frame

HEIGHT, WIDTH, FPS, COUNT = 48, 64, 25, 9
SHARES = [number / 8 for number in range(COUNT)]


def scene(number: int, height: int = HEIGHT, width: int = WIDTH) -> Frame:
    """Frame `number`, from 0 to 8."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : number * width // 8] = 255
    return image


def video(
    path: Path,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    form: str | None = None,
    *,
    numbers: Iterable[int] = range(COUNT),
    size: tuple[int, int] = (HEIGHT, WIDTH),
    options: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """A video of these frames; `form` is FFmpeg's name of the container where the suffix does not tell it."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with av.open(str(path), "w", format=form, options=dict(options)) as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=FPS))
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.bit_rate, stream.codec_context.qmax = 50_000_000, 4  # so that no change is left out
        if codec in {"mpeg1video", "wmv2"}:
            stream.codec_context.gop_size = 1  # their first difference to a black frame comes out grey
        if codec == "libx264":
            stream.options = {"preset": "ultrafast"}
        for at, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(scene(number, *size), format="bgr24").reformat(format=pixels)
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def picture(path: Path, number: int = 4, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """An image of that frame, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.haveImageWriter(str(path)):
        pytest.skip(f"this OpenCV writes no {path.suffix}")
    path.write_bytes(encoded(path.suffix, scene(number, *size)))
    return path


def encoded(suffix: str, image: Any) -> bytes:
    """An image file's bytes."""
    return cv2.imencode(suffix, image)[1].tobytes()


def jpeg_that_says(height: int, width: int) -> bytes:
    """A small image whose header says that it has this size."""
    image = bytearray(encoded(".jpg", scene(4)))
    at = image.index(b"\xff\xc0") + 5
    image[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(image)


def of_jpegs(path: Path, images: Iterable[bytes], declared: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """A video of these images, whose container declares this height and width."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.height, stream.width = declared
        stream.pix_fmt = "yuvj420p"
        for number, image in enumerate(images):
            packet = av.Packet(image)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, FPS)
            packet.is_keyframe = True
            container.mux(packet)
    return path
