"""Frames in, results out: capture, inference and output overlap in three threads.

    capture thread            this thread                output thread
    capture -> resize  ==>  batch -> infer -> split  ==>  every sink

Each arrow `==>` is a bounded Handoff. Files deliver every frame; a live source keeps only its newest one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event, Thread, Timer

import numpy as np

from aselect_edge.errors import InputError
from aselect_edge.frames import Frame, resize
from aselect_edge.records import Manifest
from aselect_runtime.handoff import Handoff
from aselect_runtime.results import Captured, Result, check_answer
from aselect_runtime.session import Session
from aselect_runtime.sinks import Write, open_sink
from aselect_runtime.sources import Source, open_source, redact
from aselect_runtime.timing import RunSummary, Stopwatch

DEPTH = 4
"""Frames that may wait between two threads: enough to hide jitter, few enough to bound memory and delay."""


@dataclass(frozen=True)
class _Ready:
    """A frame with its model input, uint8 [H, W, 3]."""

    captured: Captured
    pixels: Frame
    capture_ms: float
    resize_ms: float


class _LostError(Exception):
    """A live source failed after it had delivered frames; its message is that of the cause."""


def run_pipeline(
    manifest: Manifest,
    session: Session,
    inputs: Sequence[str],
    outputs: Sequence[str] = (),
    *,
    max_frames: int | None = None,
    max_seconds: float | None = None,
    stop: Event | None = None,
    on_frame: Callable[[Result], None] | None = None,
) -> RunSummary:
    """Run the inputs one after the other and write every result to all outputs.

    Ends with the inputs, after `max_frames` or `max_seconds`, or soon after `stop` is set; the outputs are then
    complete. `on_frame` sees each result in the calling thread. On an error (InputError, WriteError, EngineError)
    no output is left behind, with one exception: a live source that fails after its first frame ends the run, the
    outputs are completed, and then its InputError is raised.
    """
    _refuse_clashes(inputs, outputs)
    sources = [open_source(uri) for uri in inputs]
    stop = stop or Event()
    watch = Stopwatch()
    frames = 0
    lost: list[_LostError] = []
    ready: Handoff[_Ready] = Handoff(max(DEPTH, manifest.input.shape[0]))
    with ExitStack() as stack:
        writes = [stack.enter_context(open_sink(uri, manifest)) for uri in outputs]
        if max_seconds is not None:
            stack.enter_context(_timer(max_seconds, stop))
        start = time.perf_counter()
        with _capturing(sources, manifest, ready, stop, watch), _writing(writes, watch) as put:
            for result in _infer(manifest, session, islice(_until_lost(ready, lost), max_frames), watch):
                if not put(result):
                    break
                frames += 1
                if on_frame is not None:
                    on_frame(result)
        seconds = time.perf_counter() - start
        if frames == 0:
            names = ", ".join(redact(uri) for uri in inputs)
            raise InputError(f"{names}: got no frame before the end, expected at least one; check the input")
    if lost:
        kept = f"; {', '.join(outputs)}: complete up to there ({frames} frames) and kept" if outputs else ""
        raise InputError(f"{lost[0]}{kept}") from lost[0].__cause__
    fps = round(frames / seconds, 2)
    return RunSummary(
        frames, round(seconds, 3), fps, ready.dropped, session.device, watch.percentiles(), tuple(outputs)
    )


def _refuse_clashes(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    taken = {Path(uri).resolve() for uri in inputs}
    for uri in outputs:
        path = Path(uri).resolve()
        if path in taken:
            raise InputError(f"{uri}: got this path twice, expected an output of its own; choose another --output")
        taken.add(path)


@contextmanager
def _timer(seconds: float, stop: Event) -> Iterator[None]:
    timer = Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _capturing(
    sources: Sequence[Source], manifest: Manifest, ready: Handoff[_Ready], stop: Event, watch: Stopwatch
) -> Iterator[None]:
    """Runs the capture thread for as long as the block lasts; its error is raised to whoever iterates `ready`."""

    def work() -> None:
        try:
            for item in _capture(sources, manifest, stop, watch):
                if not ready.put(item, newest_wins=item.captured.source.live):
                    return
        except BaseException as error:
            ready.close(error)
        else:
            ready.close()

    thread = Thread(target=work, name="capture", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ready.abandon()
        thread.join()


def _capture(sources: Sequence[Source], manifest: Manifest, stop: Event, watch: Stopwatch) -> Iterator[_Ready]:
    height, width = manifest.input.shape[1:3]
    for source in sources:
        if stop.is_set():
            return
        with source:
            frames = _frames(source)
            while not stop.is_set():
                with watch.measure("capture"):
                    captured = next(frames, None)
                if captured is None:
                    break
                with watch.measure("resize"):
                    pixels = resize(captured.frame, (height, width), manifest.resize)
                yield _Ready(captured, pixels, watch.last("capture"), watch.last("resize"))


def _frames(source: Source) -> Iterator[Captured]:
    """The frames of an open source; raises _LostError where a live one fails after its first frame."""
    delivered = False
    try:
        for captured in source:
            yield captured
            delivered = True
    except InputError as error:
        if not (source.info.live and delivered):
            raise
        # What a camera saw cannot be had again, unlike the frames of a file: the outputs up to here must be kept.
        raise _LostError(str(error)) from error


def _until_lost(ready: Handoff[_Ready], lost: list[_LostError]) -> Iterator[_Ready]:
    """The frames up to the loss of a live source, which goes to `lost` instead of unwinding the outputs."""
    try:
        yield from ready
    except _LostError as error:
        lost.append(error)


def _infer(manifest: Manifest, session: Session, ready: Iterator[_Ready], watch: Stopwatch) -> Iterator[Result]:
    """Results in order. A last batch that is not full is padded by repeating its last frame."""
    size = manifest.input.shape[0]
    while batch := list(islice(ready, size)):
        pixels = [item.pixels for item in batch] + [batch[-1].pixels] * (size - len(batch))
        with watch.measure("infer"):
            outputs = session.infer(np.stack(pixels))
        now = time.time()
        for position, item in enumerate(batch):
            latency = {"capture": item.capture_ms, "resize": item.resize_ms, "infer": watch.last("infer")}
            rounded = {stage: round(value, 3) for stage, value in latency.items()}
            answer = {name: array[position] for name, array in outputs.items()}
            result = Result(item.captured, answer, now, rounded)
            check_answer(result, manifest)
            yield result


@contextmanager
def _writing(writes: Sequence[Write], watch: Stopwatch) -> Iterator[Callable[[Result], bool]]:
    """Runs the output thread; yields the way to it, which says False once it has failed. Its error is raised last."""
    results: Handoff[Result] = Handoff(DEPTH)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for result in results:
                with watch.measure("output"):
                    for write in writes:
                        write(result)
        except BaseException as error:
            failures.append(error)
            results.abandon()

    thread = Thread(target=work, name="output", daemon=True)
    thread.start()
    try:
        yield results.put
    finally:
        results.close()
        thread.join()
    if failures:
        raise failures[0]
