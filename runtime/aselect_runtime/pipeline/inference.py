"""Runs the session on batches from a feed and passes the outputs on, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from aselect_runtime.errors import EngineError
from aselect_runtime.frames import Frame
from aselect_runtime.pipeline.answers import Answer
from aselect_runtime.pipeline.feed import Feed
from aselect_runtime.pipeline.heartbeat import Heartbeat
from aselect_runtime.pipeline.still import StillFrames
from aselect_runtime.pipeline.streams import Ready
from aselect_runtime.records import Manifest
from aselect_runtime.results import Arrays
from aselect_runtime.sessions.session import Session

if TYPE_CHECKING:
    from aselect_runtime.engines.tensorrt_session import PipelinedSession


class _OneByOne:
    """Adapts a synchronous session to `submit` and `collect`."""

    depth = 1

    def __init__(self, session: Session) -> None:
        self._session = session

    def submit(self, frames: Frame) -> None:
        self._outputs = self._session.infer(frames)

    def collect(self) -> Arrays:
        return self._outputs


@dataclass(frozen=True)
class _Pending:
    """A batch that was submitted and not yet collected."""

    batch: list[Ready]
    still: list[bool]
    """For each frame, whether it repeats the outputs of its stream's latest inferred frame."""
    start: float
    """Monotonic time in seconds at which it was submitted."""

    @property
    def submitted(self) -> bool:
        """Whether at least one frame was given to the session."""
        return not all(self.still)


class Inference:
    """Takes batches from a feed and passes their outputs to `put`, until `put` returns False.

    With `ahead`, a session that overlaps batches gets the next one as soon as it is ready; outputs never wait for a
    batch that is not ready. Without it, a batch is taken only when the session is free: a frame in the feed can still
    be replaced by a newer one, a frame inside the session cannot. With `still`, a frame that shows no change is not
    submitted: it gets the outputs of its stream's latest inferred frame.
    """

    def __init__(
        self,
        manifest: Manifest,
        session: Session,
        put: Callable[[Answer], bool],
        heartbeat: Heartbeat,
        *,
        ahead: bool,
        still: StillFrames | None = None,
    ) -> None:
        overlaps = hasattr(session, "submit") and hasattr(session, "collect")
        self._session = cast("PipelinedSession", session) if overlaps else _OneByOne(session)
        self._depth = self._session.depth if ahead else 1
        self._put = put
        self._heartbeat = heartbeat
        self._size = manifest.input.shape[0]
        self._whole: Frame = np.zeros(manifest.input.shape, np.uint8)
        self._still = still
        self._latest: dict[int, Arrays] = {}
        """The latest outputs of each stream, kept if `still` is given."""
        self._pending: deque[_Pending] = deque()
        self._free_since = 0.0

    def run(self, feed: Feed[Ready], most: int | None) -> int:
        """Run up to `most` frames; returns how many have results. Leaves nothing pending in the session in any case.

        Raises EngineError of the session, and the feed's error after all frames before it.
        """
        answered, left = 0, self._size if most is None else most
        try:
            while True:
                wanted = min(self._size, left) if len(self._pending) < self._depth else 0
                if wanted and (batch := feed.take(wanted, wait=not self._pending)):
                    self._submit(batch)
                    left -= 0 if most is None else len(batch)
                elif self._pending and (answer := self._collect()):
                    answered += len(answer.batch)
                else:
                    return answered
        finally:
            with suppress(EngineError):  # the next user of the session must find nothing pending
                for _ in range(sum(pending.submitted for pending in self._pending)):
                    self._session.collect()

    def _submit(self, batch: list[Ready]) -> None:
        """Submit a batch; one that is not full is padded with the buffer's old content."""
        still = [self._is_still(ready) for ready in batch]
        moving = [ready for ready, same in zip(batch, still, strict=True) if not same]
        for position, ready in enumerate(moving if self._size > 1 else ()):
            self._whole[position] = ready.pixels
        start = time.monotonic()
        if moving:
            with self._heartbeat.busy("infer"):
                self._session.submit(self._whole if self._size > 1 else moving[0].pixels[None])
        self._pending.append(_Pending(batch, still, start))

    def _is_still(self, ready: Ready) -> bool:
        return self._still is not None and self._still.still(ready.stream, ready.captured, ready.pixels)

    def _collect(self) -> Answer | None:
        """Collect the oldest batch and pass it to `put`; None if `put` refused it.

        Its inference time is counted from when the session was free for it.
        """
        pending = self._pending.popleft()
        outputs: Arrays = {}
        if pending.submitted:
            with self._heartbeat.busy("infer"):
                outputs = self._session.collect()
        now = time.monotonic()
        spent = now - max(pending.start, self._free_since) if pending.submitted else 0.0
        self._free_since = now
        answer = Answer(pending.batch, self._each(pending, outputs), pending.still, spent * 1000, time.time(), now)
        return answer if self._put(answer) else None

    def _each(self, pending: _Pending, outputs: Arrays) -> list[Arrays]:
        """The outputs of each frame of a batch, without the batch axis."""
        found: list[Arrays] = []
        position = 0
        for ready, still in zip(pending.batch, pending.still, strict=True):
            if still:
                found.append(self._latest[ready.stream])
                continue
            found.append({name: array[position] for name, array in outputs.items()})
            position += 1
            if self._still is not None:
                self._latest[ready.stream] = found[-1]
        return found
