"""Turns the session's outputs for a batch into results, and passes them to every output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aselect_runtime.drawing import Look
from aselect_runtime.health import SinkHealth
from aselect_runtime.pipeline.events import EventFlow
from aselect_runtime.pipeline.monitor import Monitor
from aselect_runtime.pipeline.outlets import Outlet
from aselect_runtime.pipeline.streams import Ready
from aselect_runtime.pipeline.temporal import TemporalAverage
from aselect_runtime.pipeline.timing import Stopwatch
from aselect_runtime.records import Manifest
from aselect_runtime.results import Arrays, Result, check_answer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """The outputs for each frame of a batch, without the batch axis. Times are of the whole batch."""

    batch: list[Ready]
    outputs: list[Arrays]
    repeated: list[bool]
    """For each frame, whether it has an earlier frame's outputs without inference, because nothing moved."""
    infer_ms: float
    t_result: float
    """Unix time in seconds."""
    t_monotonic: float


class Answering:
    """Checks outputs, averages them and passes the results on; for one thread.

    `smooth` is the weight of a new frame, None for no average.
    """

    def __init__(
        self,
        manifest: Manifest,
        outlets: Sequence[Outlet],
        monitor: Monitor,
        watch: Stopwatch,
        smooth: float | None,
        on_frame: Callable[[Result], None] | None,
        look: Look,
        flow: EventFlow | None = None,
    ) -> None:
        self._look = look
        self._manifest = manifest
        self._outlets = outlets
        self._monitor = monitor
        self._watch = watch
        self._on_frame = on_frame
        self._flow = flow
        self._smooth = smooth
        self._smoothings: dict[int, TemporalAverage] = {}
        self._ended: set[Outlet] = set()

    def __call__(self, answer: Answer) -> bool:
        """Process one batch; False if all outputs have ended. Raises EngineError for invalid outputs of the model."""
        for ready, outputs, repeated in zip(answer.batch, answer.outputs, answer.repeated, strict=True):
            result = self._result(answer, ready, outputs, repeated)
            self._monitor.answered(ready.stream, repeated=repeated)
            if self._flow is not None:
                result = self._flow.process(result)
            for outlet in self._outlets:
                outlet.offer(result)
            if self._on_frame is not None:
                self._on_frame(result)
        return not self._outlets or self._any_left()

    def _result(self, answer: Answer, ready: Ready, outputs: Arrays, repeated: bool) -> Result:
        wait_ms = (answer.t_monotonic - ready.t_ready) * 1000 - answer.infer_ms
        latency = {"capture": ready.capture_ms, "resize": ready.resize_ms, "wait": wait_ms}
        self._watch.add("wait", wait_ms)
        if not repeated:  # a zero would make inference look faster than it is
            latency["infer"] = answer.infer_ms
            self._watch.add("infer", answer.infer_ms)
        self._watch.add("age", (answer.t_monotonic - ready.captured.t_monotonic) * 1000)
        rounded = {stage: round(value, 3) for stage, value in latency.items()}
        health = self._monitor.health(self._sinks)
        if not repeated:
            check_answer(ready.captured, outputs, self._manifest)
        if self._smooth is not None:
            if ready.stream not in self._smoothings:
                self._smoothings[ready.stream] = TemporalAverage(self._smooth, len(self._manifest.classes))
            average = self._smoothings[ready.stream]
            outputs = average.repeat(ready.captured) if repeated else average(ready.captured, outputs)
        return Result(
            ready.captured,
            outputs,
            self._manifest,
            answer.t_result,
            rounded,
            health,
            ready.stream,
            ready.pixels,
            repeated=repeated,
            look=self._look,
        )

    def _any_left(self) -> bool:
        """Whether an output still works; one that failed is logged once, unless it is the last."""
        ended = {outlet for outlet in self._outlets if outlet.ended}
        if len(ended) == len(self._outlets):
            return False
        for outlet in ended - self._ended:
            log.warning("%s; continuing without %s", outlet.fault or "closed", outlet.name)
        self._ended = ended
        return True

    def _sinks(self) -> tuple[SinkHealth, ...]:
        places = self._flow.health() if self._flow is not None else ()
        return tuple(outlet.health() for outlet in self._outlets) + places
