"""A video: every frame, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.results import Captured, SourceInfo
from aselect_runtime.sources.image_size import check_size
from aselect_runtime.sources.opencv import Capture, DeferredCapture, made, rate

COMPLETE = 0.9
"""A warning is logged if a video ends before this share of the frames that its container states."""
FPS = 25.0
"""Frame rate of a video that states none."""

log = logging.getLogger(__name__)


class Video:
    """Delivers every frame of the capture that `connect` opens, then ends; raises InputError for too large frames.

    The number of frames that a container states is only a hint: an edit list, a variable frame rate, pauses, or audio
    that is longer than the video make it too high. If fewer come, InputError is raised only if there was none, if
    `missing` returns that bytes are missing at the end, if the capture states a fault, or if nothing else tells its end
    from a connection that broke off (`unmarked`); otherwise a warning is logged. `began` is called after the first
    frame, `explain` with the fault if there is none; it may raise a more exact error.
    """

    def __init__(
        self,
        name: str,
        stem: str,
        connect: Callable[[], Capture | DeferredCapture],
        missing: Callable[[], int] = lambda: 0,
        tries: int = 1,
        began: Callable[[], None] = lambda: None,
        explain: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.info = SourceInfo(name, FPS)
        self.labels = frozenset({stem})
        self._stem = stem
        self._connect = connect
        self._missing = missing
        self._tries = tries
        self._began = began
        self._explain = explain

    def __enter__(self) -> Video:
        self._capture = self._connect()
        width, height = (self._capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        try:
            check_size(self.info.name, width, height)
        except InputError:
            self._capture.release()
            raise
        self.info = replace(self.info, fps=rate(self._capture, FPS))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Captured]:
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        count = 0
        for make in made(self._capture, self._tries):
            frame = make()
            if frame is None:
                continue
            check_size(self.info.name, frame.shape[1], frame.shape[0])
            at = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            position = at if at > 0 else count / self.info.fps
            yield Captured(frame, count, f"{self._stem}-{count:06d}", self.info, position=round(position, 3))
            count += 1
            if count == 1:
                self._began()
        self._check(count, promised)

    def _check(self, count: int, promised: float) -> None:
        fault = getattr(self._capture, "fault", "")
        if count == 0:
            self._explain(fault)
        if fault:
            raise InputError(
                f"{self.info.name}: got {count} frames and then {fault}, expected the rest of the video; check its "
                "server and the network, or copy the video"
            )
        if count == 0:
            raise InputError(
                f"{self.info.name}: got no decodable frame, expected a video; it may be damaged, copy it again"
            )
        if count < promised and (missing := self._missing()):
            raise InputError(
                f"{self.info.name}: got {count} frames and the end of the file, expected {missing} more bytes; "
                "the video is truncated, copy it again"
            )
        unmarked = getattr(self._capture, "unmarked", False)
        if count < COMPLETE * promised and unmarked:
            raise InputError(
                f"{self.info.name}: got {count} frames and then the end of the connection, expected about "
                f"{promised:.0f}, which its container states; check its server and the network, or copy the video"
            )
        if count < COMPLETE * promised:
            log.warning(
                "%s: got %d frames, but its container states about %d; the frames were used",
                *(self.info.name, count, promised),
            )
        if unmarked and not promised:
            log.warning(
                "%s: got %d frames; neither its server nor its container states how much it is, so that more may be "
                "missing if the connection broke off",
                *(self.info.name, count),
            )
