"""An overlay video."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2

from aselect_runtime.drawing import Painter
from aselect_runtime.errors import WriteError
from aselect_runtime.files import atomic_file
from aselect_runtime.frames import Frame, resize
from aselect_runtime.records import Manifest, Resize
from aselect_runtime.results import Captured, Result
from aselect_runtime.sinks import encoders
from aselect_runtime.sinks.sink import Write
from aselect_runtime.sinks.space import SpaceWatch

LONGEST = 1.0
"""Seconds that one frame of a live source may stand: a longer pause of the source is cut out of the open_video."""


@contextmanager
def video(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Writes the painted frames at the source's rate; raises WriteError if the file does not come out whole.

    Where the disk is full, the frames so far stay as a video that can be played.
    """
    painter = Painter(manifest)
    fault: WriteError | None = None
    # What a killed run left of a video may be played yet: it is not swept away.
    with atomic_file(path, sweep=False) as temporary, ThreadPoolExecutor(1, "encode") as encoder:
        open_video = _Encoding(path, temporary)
        encoding: list[Future[None]] = []

        def write(result: Result) -> None:
            image = result.plot(painter)  # while the encoder is busy with the last one
            finish()
            encoding.append(encoder.submit(open_video.write, image, result.captured))

        def finish() -> None:
            while encoding:
                encoding.pop().result()

        try:
            yield write
            finish()
        except _FullError as error:
            fault = error
        finally:
            encoder.submit(open_video.release).result()
        fault = fault or open_video.fault()
        if fault is not None and not open_video.playable():
            raise fault
    if fault is not None:
        raise fault


class _FullError(WriteError):
    """The disk took no more, and the frames so far are written."""


class _Encoding:
    """A VideoWriter that opens at the first frame, whose size all later frames are fitted to."""

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path = path
        self._temporary = temporary
        self._writer = cv2.VideoWriter()
        self._size = (0, 0)
        self._fps = 0.0
        self._shown_until: float | None = None
        self._written = 0
        self._space = SpaceWatch(temporary.parent)

    def write(self, frame: Frame, captured: Captured) -> None:
        if not self._writer.isOpened():
            self._open(frame, captured)
        if self._space.full():
            raise _FullError(
                f"{self._path}: the disk is full after {self._written} frames, which are kept, expected space for "
                "more; free space or choose another place"
            )
        fitted = resize(frame, self._size, Resize(mode="letterbox"))
        for _ in range(self._copies(captured)):
            self._writer.write(fitted)
            self._written += 1

    def release(self) -> None:
        self._writer.release()

    def playable(self) -> bool:
        """Whether the file has any frame."""
        return encoders.count_frames(self._temporary) > 0

    def fault(self) -> WriteError | None:
        """OpenCV does not say when a write fails (a full disk), so look whether the file can be played."""
        count = encoders.count_frames(self._temporary)
        # Matroska stores a duration, from which the count is estimated.
        if count >= self._written - 2:
            return None
        return WriteError(
            f"{self._path}: got a video of {count} frames, expected {self._written}; the disk may be full, "
            "free space or choose another place"
        )

    def _open(self, frame: Frame, captured: Captured) -> None:
        self._size = (frame.shape[0], frame.shape[1])
        self._fps = captured.source.fps
        writer = encoders.start(self._temporary, self._fps, self._size)
        if writer is None:
            raise WriteError(
                f"{self._path}: OpenCV could not open a video, expected an OpenCV with FFmpeg; "
                "write .jsonl, or use the OpenCV of JetPack (Jetson) or of opencv-python-headless (elsewhere)"
            )
        self._writer = writer

    def _copies(self, captured: Captured) -> int:
        """How often to show a frame: of a live source as long as it was the newest, so that the video keeps time."""
        if not captured.source.live:
            return 1
        now = captured.t_monotonic
        # A live source that follows a file starts its own time, and so does one that paused for too long.
        most = max(1, int(LONGEST * self._fps))
        since = now if self._shown_until is None else max(self._shown_until, now - (most - 1) / self._fps)
        copies = max(0, round((now - since) * self._fps) + 1)
        self._shown_until = since + copies / self._fps
        return copies
