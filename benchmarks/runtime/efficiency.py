"""Frames per second of whole loops over the raw rate of a session that sleeps 5, 10 or 20 ms.

Every loop does the same work: decode, resize, infer, paint, encode an overlay video, write a JSON line. The plain loop
is a simple OpenCV program that uses this project's painting; supervision's process_video runs with its own reader,
callback and writer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import cast

import cv2

from aselect_runtime import run_pipeline
from aselect_runtime.drawing import Painter
from aselect_runtime.frames import Frame, resize
from aselect_runtime.results import Captured, Result, SourceInfo
from benchmarks.runtime import peer
from benchmarks.runtime.standin import Sleeping, standin_manifest, videos

LATENCIES = (5, 10, 20)
PEER = "supervision process_video"

Act = Callable[[cv2.typing.MatLike, int], cv2.typing.MatLike]
"""A frame and its number in, the painted frame out."""


def measure(folder: Path, runs: int, frames: int, supervision: bool) -> dict[str, float | str]:
    """Rates and ratios, the median of `runs` interleaved runs."""
    samples: dict[str, list[float]] = {}
    clips = videos(folder, frames)
    loops: dict[str, Callable[[Path, float], float]] = {
        "aselect-run": lambda video, ms: ours(video, ms, frames, folder),
        "plain OpenCV loop": lambda video, ms: plain(video, ms, frames, folder),
    }
    why_not = "not run: no --supervision"
    if supervision:
        try:
            python = peer.prepare()
        except peer.PeerMissingError as error:
            why_not = str(error)
        else:
            loops[PEER] = lambda video, ms: peer.rate(python, video, ms, frames, folder)
    for _ in range(runs):
        for size, video in clips.items():
            for ms in LATENCIES:
                raw = Sleeping(ms).rate()
                for name, loop in loops.items():
                    samples.setdefault(f"{name}, {size}, {ms} ms, over the raw rate", []).append(loop(video, ms) / raw)
    figures: dict[str, float | str] = {row: round(median(values), 3) for row, values in samples.items()}
    if PEER not in loops:
        figures[PEER] = why_not
    figures["ultralytics, roboflow inference"] = "not run: their loops do not accept another session"
    return figures


def ours(video: Path, milliseconds: float, frames: int, folder: Path) -> float:
    outputs = [str(folder / "ours.mp4"), str(folder / "ours.jsonl")]
    return run_pipeline(standin_manifest(), Sleeping(milliseconds), [str(video)], outputs, max_frames=frames).fps


def plain(video: Path, milliseconds: float, frames: int, folder: Path) -> float:
    """Read, resize, infer, paint, write: one after the other."""

    def loop(act: Act) -> None:
        capture = cv2.VideoCapture(str(video))
        writer: cv2.VideoWriter | None = None
        for number in range(frames):
            found, frame = capture.read()
            if not found:
                break
            painted = act(frame, number)
            if writer is None:  # small frames are enlarged before they are painted
                size = (painted.shape[1], painted.shape[0])
                writer = cv2.VideoWriter(str(folder / "plain.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
            writer.write(painted)
        capture.release()
        if writer is not None:
            writer.release()

    with callback(milliseconds, str(folder / "plain.jsonl")) as act:
        delivered, seconds = timed(loop, act)
    return delivered / seconds


def timed(loop: Callable[[Act], object], act: Act) -> tuple[int, float]:
    """The number of frames that a loop passed to `act`, and its seconds.

    The requested number is not used: a clip may be shorter.
    """
    delivered = 0

    def counted(frame: cv2.typing.MatLike, index: int) -> cv2.typing.MatLike:
        nonlocal delivered
        delivered += 1
        return act(frame, index)

    start = time.perf_counter()
    loop(counted)
    return delivered, time.perf_counter() - start


@contextmanager
def callback(milliseconds: float, lines: str) -> Iterator[Act]:
    """Context with a function from a frame to the painted frame that writes a JSON line, for callback-based loops."""
    manifest, session = standin_manifest(), Sleeping(milliseconds)
    painter = Painter(manifest)
    info, (_, height, width, _) = SourceInfo("video", 25), manifest.input.shape
    with Path(lines).open("w", encoding="utf-8") as stream:

        def act(frame: cv2.typing.MatLike, index: int) -> cv2.typing.MatLike:
            captured = Captured(cast(Frame, frame), index, f"{index}", info)
            pixels = resize(captured.frame, (height, width), manifest.resize)
            outputs = {name: array[0] for name, array in session.infer(pixels[None]).items()}
            result = Result(captured, outputs, manifest, time.time(), {})
            stream.write(result.to_json() + "\n")
            return result.plot(painter)

        yield act
