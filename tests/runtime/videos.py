"""Healthy videos whose containers promise other frame counts than they show, as trimming tools and recorders do.

Every frame is one grey that says its number: 30 + 4 * number, so that a test sees which frames it got.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from aselect_runtime.frames import Frame

FPS = 25
SIZE = (48, 64)
"""Height and width."""
FRAMES = 50


def grey(number: int) -> Frame:
    """A frame that shows its number."""
    return np.full((*SIZE, 3), 30 + 4 * number, np.uint8)


def number_of(frame: Frame) -> int:
    """Which frame it was, by its grey; the conversions to YUV and back lose two to three levels."""
    return round((float(frame.mean()) - 27.5) / 4)


def write(path: Path, times: Sequence[float], audio_seconds: float = 0.0, gop: int = 100) -> Path:
    """A video whose frames 0, 1, … are shown at these seconds, with silence beside them if asked for."""
    vpx = path.suffix == ".webm"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libvpx-vp9" if vpx else "mpeg4", rate=FPS)
        video.height, video.width = SIZE
        video.pix_fmt = "yuv420p"
        video.bit_rate = 2_000_000
        video.codec_context.gop_size = gop
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("libopus" if vpx else "aac", rate=48000) if audio_seconds else None
        for number, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(number), format="bgr24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            container.mux(list(_silence(sound, audio_seconds)))
    return path


def _silence(stream: av.AudioStream, seconds: float) -> Iterator[av.Packet[av.AudioStream]]:
    for start in range(0, round(seconds * 48000), 960):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def regular(count: int = FRAMES) -> list[float]:
    """Times of frames that follow each other evenly."""
    return [number / FPS for number in range(count)]


def trimmed(path: Path, first: int = 30) -> Path:
    """The frames from `first` on, cut as `ffmpeg -c copy` cuts: all samples stay, an edit list hides the others."""
    whole = write(path.with_name("whole.mp4"), regular())
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        assert stream.time_base is not None
        offset = round(first / FPS / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.dts, packet.pts, packet.stream = packet.dts - offset, packet.pts - offset, copy
                out.mux(packet)
    whole.unlink()
    return path


def skipping(path: Path, every: int = 2) -> Path:
    """An AVI whose recorder skipped all but every n-th frame: each skipped one is an empty chunk of the index."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.height, video.width = SIZE
        video.pix_fmt = "yuv420p"
        video.bit_rate = 2_000_000
        for number in range(FRAMES // every):
            frame = av.VideoFrame.from_ndarray(grey(number), format="bgr24")
            frame.pts, frame.time_base = number * every, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


VARIABLE = [*(n / FPS for n in range(10)), *(0.4 + n / 5 for n in range(15)), *(3.5 + n / 50 for n in range(25))]
"""25, 5 and 50 frames a second."""
GAP = [time + (40 if time >= 1 else 0) for time in regular()]
"""Nothing is shown for 40 s in the middle."""
LONG_GAP = [time + (90 if time >= 1 else 0) for time in regular()]
"""Longer than the 4096 packets of other streams after which OpenCV gives a video up."""

KINDS: dict[str, tuple[Callable[[Path], Path], Sequence[int]]] = {
    "edit-list.mp4": (trimmed, range(30, FRAMES)),
    "variable.mkv": (lambda path: write(path, VARIABLE), range(FRAMES)),
    "variable.webm": (lambda path: write(path, VARIABLE), range(FRAMES)),
    "gap.mkv": (lambda path: write(path, GAP), range(FRAMES)),
    "gap-with-audio.mkv": (lambda path: write(path, LONG_GAP, 100), range(FRAMES)),
    "long-audio.mkv": (lambda path: write(path, regular(), 6.0), range(FRAMES)),
    "long-audio.mp4": (lambda path: write(path, regular(), 6.0), range(FRAMES)),
    "skipping.avi": (skipping, range(FRAMES // 2)),
}
"""Name of a file -> how to write it, and which frames it shows."""


def times(name: str) -> list[float]:
    """When each frame of one of KINDS is shown, in seconds."""
    if name.startswith("variable"):
        return VARIABLE
    if name.startswith("gap"):
        return LONG_GAP if "audio" in name else GAP
    if name.startswith("skipping"):
        return [2 * time for time in regular(FRAMES // 2)]
    return regular(len(KINDS[name][1]))


def read(path: Path) -> list[int]:
    """The numbers of the frames that a plain OpenCV loop gets."""
    capture = cv2.VideoCapture(str(path))
    numbers = []
    while (read := capture.read())[0]:
        numbers.append(number_of(read[1]))  # type: ignore[arg-type]
    capture.release()
    return numbers
