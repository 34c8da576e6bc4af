"""Writing overlay videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from aselect_runtime.drawing import Painter
from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.files import check_place, removed
from aselect_runtime.frames import Frame, resize
from aselect_runtime.locking import locking
from aselect_runtime.records import Manifest, Resize
from aselect_runtime.results import Captured, Result
from aselect_runtime.sinks import encoders
from aselect_runtime.sinks.sink import Write
from aselect_runtime.sinks.space import SpaceWatch

LONGEST = 1.0
"""Maximum seconds for which one frame of a live source is shown: longer pauses are cut out of the video."""


@contextmanager
def video(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Writes the drawn frames at the source's rate; raises WriteError if the file is not complete at the end.

    The file is written in place from the first frame on, so that it can be played if the run is killed or the disk is
    full. Raises WriteError if another process writes it.
    """
    painter = Painter(manifest)
    check_place(path)
    with locking(path) as claim, ThreadPoolExecutor(1, "encode") as encoder:
        open_video = _Encoding(path, claim)
        encoding: list[Future[None]] = []

        def write(result: Result) -> None:
            image = result.plot(painter)  # while the encoder works on the previous image
            finish()
            encoding.append(encoder.submit(open_video.write, image, result.captured))

        def finish() -> None:
            while encoding:
                encoding.pop().result()

        try:
            yield write
            finish()
        except BaseException:
            encoder.submit(open_video.abandon).result()
            raise
        encoder.submit(open_video.release).result()


class _Encoding:
    """A writer that is opened with the first frame; later frames are resized to its size."""

    def __init__(self, path: Path, claim: Callable[[], None]) -> None:
        self._path = path
        self._claim = claim
        self._writer: encoders.Writer | None = None
        self._size = (0, 0)
        self._fps = 0.0
        self._shown_until: float | None = None
        self._written = 0
        self._space = SpaceWatch(path.resolve().parent)

    def write(self, frame: Frame, captured: Captured) -> None:
        if self._space.full():  # OpenCV's writers do not report it, and the index at the end needs space
            raise WriteError(
                f"{self._path}: the disk is full after {self._written} frames, which are kept, expected space for "
                "more; free space or choose another path"
            )
        if self._writer is None:
            self._writer = self._open(frame, captured)
        fitted = resize(frame, self._size, Resize(mode="letterbox"))
        for _ in range(self._copies(captured)):
            self._writer.write(fitted)
            self._written += 1

    def abandon(self) -> None:
        """Complete the file after a failure, if possible; a file that cannot be played is removed."""
        if self._writer is not None:
            with suppress(Exception):
                self._writer.release()
            if not encoders.count_frames(self._path):
                self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Complete the file and check that it can be played, because OpenCV does not report when a write fails."""
        if self._writer is None:
            return
        try:
            self._writer.release()
        except WriteError:
            self.abandon()
            raise
        if not self._path.exists():
            raise removed(self._path)
        count = encoders.count_frames(self._path)
        # Matroska stores a duration, from which the count is estimated.
        if count < self._written - 2:
            raise WriteError(
                f"{self._path}: got a video of {count} frames, expected {self._written}; the disk may be full, "
                "free space or choose another path"
            )

    def _open(self, frame: Frame, captured: Captured) -> encoders.Writer:
        if not self._path.resolve().parent.is_dir():
            raise removed(self._path)
        self._claim()  # another run may have begun the file since this one started
        self._size = (frame.shape[0], frame.shape[1])
        self._fps = captured.source.fps
        if not self._fps > 0:
            raise InputError(
                f"{captured.source.name}: got a source of {self._fps} frames per second, expected more than 0 to write "
                "a video of it; state the rate in its SourceInfo"
            )
        writer = encoders.start(self._path, self._fps, self._size)
        if writer is None:
            self._path.unlink(missing_ok=True)
            raise WriteError(
                f"{self._path}: OpenCV could not open a video, expected an OpenCV with FFmpeg; "
                "write .jsonl, or use the OpenCV of JetPack (Jetson) or of opencv-python-headless (elsewhere)"
            )
        self._claim()
        return writer

    def _copies(self, captured: Captured) -> int:
        """Number of times to write a frame: one of a live source fills the time since the frame before it."""
        if not captured.source.live:
            return 1
        now = captured.t_monotonic
        # After a file, or after a long pause, the time of a live source starts again.
        most = max(1, int(LONGEST * self._fps))
        since = now if self._shown_until is None else max(self._shown_until, now - (most - 1) / self._fps)
        copies = max(0, round((now - since) * self._fps) + 1)
        self._shown_until = since + copies / self._fps
        return copies
