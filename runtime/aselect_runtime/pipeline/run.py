"""Frames in, results out: all stages run concurrently.

    a grab thread for each live source
    a capture thread for each lane     this thread              results thread            a thread for each sink
    capture -> resize             ==>  batch -> infer      ==>  check -> smooth      ==>  draw, encode, send

Each arrow `==>` is a bounded queue. Videos deliver every frame and wait if the next stage is slower; of a live source
only the newest frame is passed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event

from aselect_runtime.drawing import Look
from aselect_runtime.errors import InputError
from aselect_runtime.health import SinkHealth
from aselect_runtime.options import LEAST_SECONDS, MOST, MOST_SECONDS, Decode, within
from aselect_runtime.pipeline.answers import Answering
from aselect_runtime.pipeline.events import EventFlow, EventPlan
from aselect_runtime.pipeline.feed import Feed
from aselect_runtime.pipeline.heartbeat import Heartbeat
from aselect_runtime.pipeline.inference import Inference
from aselect_runtime.pipeline.lanes import Lanes
from aselect_runtime.pipeline.monitor import Monitor
from aselect_runtime.pipeline.outlets import DEPTH, Outlet, open_outlets, releasing_stdout
from aselect_runtime.pipeline.output_plan import (
    OutputPlan,
    label_folders,
    plan_outputs,
    refuse_below,
    refuse_taken,
    short_names,
    taken_paths,
)
from aselect_runtime.pipeline.placeholders import TIME, dated, refuse_placeholders
from aselect_runtime.pipeline.still import StillFrames
from aselect_runtime.pipeline.streams import Patience, Ready
from aselect_runtime.pipeline.surroundings import opencv_in_one_thread, results_thread, time_limit, watching
from aselect_runtime.pipeline.timing import RunSummary, Stopwatch
from aselect_runtime.records import Manifest
from aselect_runtime.redaction import redact
from aselect_runtime.results import Result
from aselect_runtime.sessions.session import Session
from aselect_runtime.sinks import Sink, open_sink
from aselect_runtime.sinks.recording import recording
from aselect_runtime.sources import Source, open_source
from aselect_runtime.sources.decoding import Decoding
from aselect_runtime.sources.source import path_text, source_name


def run_pipeline(
    manifest: Manifest,
    session: Session,
    inputs: Sequence[str | Path | Source],
    outputs: Sequence[str | Path | Sink] = (),
    *,
    max_frames: int | None = None,
    max_seconds: float | None = None,
    stop: Event | None = None,
    on_frame: Callable[[Result], None] | None = None,
    smooth: float | None = None,
    skip_still: float | None = None,
    record: Path | None = None,
    decode: Decode = "auto",
    events: EventPlan | None = None,
    patience: Patience | None = None,
    look: Look | None = None,
) -> RunSummary:
    """Run the inputs and write every result to all outputs: live inputs in parallel, videos one after the other.

    Inputs and outputs are URIs, see `open_source` and `open_sink`, paths, or objects.

    The run ends with the inputs, after `max_frames` results or `max_seconds`, or soon after `stop` is set, even before
    the first frame; the outputs are then complete. A live source whose connection is lost is reconnected until the run
    ends. `on_frame` is called with each result in the results thread. `smooth` averages outputs over time (see
    TemporalAverage), `skip_still` repeats the last result while nothing moves (see StillFrames), `record` is a folder
    for model inputs for calibration, `decode` is what decodes videos and streams (`auto`, `software`, `hardware`),
    `events` has the rules and the destinations of their events, `look` says how results are drawn.

    An input that ends with an error (a truncated video, a camera that was given up) ends neither the run nor an output:
    the next one follows, and at the end IncompleteError is raised, which has the summary. Raises at once what ends the
    run: InputError if no input has ever delivered a frame, EngineError of the session. Raises at the end, with all
    other outputs complete, the error of an output file. In any case, an output that has a result is completed and kept.
    """
    given, wanted = [path_text(each) for each in inputs], [path_text(each) for each in outputs]
    decoding = Decoding(decode)
    sources = [_source(each, decoding) for each in given]
    names = [source.info.name for source in sources]
    watch, heartbeat = Stopwatch(), Heartbeat()
    monitor = Monitor(names, heartbeat)
    within(max_frames, 1, MOST, "max_frames")
    within(max_seconds, LEAST_SECONDS, MOST_SECONDS, "max_seconds", whole=False)
    folders = label_folders(sources, short_names(given))
    lanes = Lanes(sources, [partial(_source, each, decoding) for each in given], folders)
    plans = plan_outputs(wanted, given, lanes.streams)
    taken = taken_paths(plans)
    written = [Outlet(plan, partial(_sink, plan, manifest), watch, heartbeat) for plan in plans]
    outlets = [*written, *_recorders(record, given, taken, watch, heartbeat)]
    flow = None if events is None else EventFlow(events, manifest, names, taken)
    still = None if skip_still is None else StillFrames(skip_still)
    answering = Answering(manifest, outlets, monitor, watch, smooth, on_frame, _known(look or Look(), manifest), flow)
    feed: Feed[Ready] = Feed(lanes.live, max(DEPTH, manifest.input.shape[0]))
    stop = stop or Event()
    with _around(outlets, flow, monitor, heartbeat, max_seconds, stop) as expired:
        start = time.perf_counter()
        with (
            lanes.capturing(feed, manifest, watch, monitor, heartbeat, stop, patience or Patience()),
            results_thread(answering, heartbeat) as put,
        ):
            # A live frame that waits in the feed can be replaced by a newer one; inside the session it cannot.
            inference = Inference(manifest, session, put, heartbeat, ahead=not any(lanes.live), still=still)
            frames = inference.run(feed, max_frames)
        seconds = time.perf_counter() - start
        if frames == 0 and (expired.is_set() or not stop.is_set()):
            lanes.raise_nothing([redact(source_name(each)) for each in given])
    kept = tuple(outlet.name for outlet in written if outlet.health().written)
    summary = _summary(frames, seconds, session.device, monitor, watch, heartbeat, _health(outlets, flow), kept)
    lanes.raise_losses(summary)
    return summary


@contextmanager
def _around(
    outlets: Sequence[Outlet],
    flow: EventFlow | None,
    monitor: Monitor,
    heartbeat: Heartbeat,
    max_seconds: float | None,
    stop: Event,
) -> Iterator[Event]:
    """Open outputs and destinations, and watch over the run; yields the Event of the time limit."""
    with ExitStack() as stack:
        stack.enter_context(opencv_in_one_thread())
        if flow is not None:
            stack.callback(flow.close)  # after the outputs, which must not wait for a destination that is away
        stack.enter_context(releasing_stdout(outlets, stop))
        stack.enter_context(open_outlets(outlets))
        expired = stack.enter_context(time_limit(max_seconds, stop))
        if flow is not None:
            stack.enter_context(flow.running())
        stack.enter_context(watching(monitor, heartbeat, outlets, flow, partial(_health, outlets, flow)))
        yield expired


def _health(outlets: Sequence[Outlet], flow: EventFlow | None) -> tuple[SinkHealth, ...]:
    return tuple(outlet.health() for outlet in outlets) + (() if flow is None else flow.health())


def _summary(
    frames: int,
    seconds: float,
    device: str,
    monitor: Monitor,
    watch: Stopwatch,
    heartbeat: Heartbeat,
    sinks: tuple[SinkHealth, ...],
    outputs: tuple[str, ...],
) -> RunSummary:
    sources = monitor.sources()
    return RunSummary(
        frames=frames,
        seconds=round(seconds, 3),
        fps=round(frames / seconds, 2),
        dropped=sum(source.dropped for source in sources),
        repeated=sum(source.repeated for source in sources),
        reconnects=sum(source.reconnects for source in sources),
        device=device,
        stages=watch.percentiles(),
        sources=sources,
        sinks=sinks,
        stalls=dict(heartbeat.stalls),
        outputs=outputs,
    )


def _source(given: str | Source, decoding: Decoding) -> Source:
    return open_source(given, decoding) if isinstance(given, str) else given


def _sink(plan: OutputPlan, manifest: Manifest) -> Sink:
    return open_sink(plan.uri, manifest) if plan.sink is None else plan.sink


def _recorders(
    record: Path | None, inputs: Sequence[str | Source], taken: set[Path], watch: Stopwatch, heartbeat: Heartbeat
) -> list[Outlet]:
    """The output of every input's calibration images, if there is one; its folder is added to `taken`.

    Raises InputError if the folder is an input's or another output's.
    """
    if record is None:
        return []
    refuse_placeholders(str(record), (TIME,), "record_calibration")
    record = Path(dated(str(record)))
    refuse_below(inputs, str(record), "a folder of images", "record_calibration")
    refuse_taken(record, taken, "calibration images", "record_calibration")
    taken.add(record.resolve())
    plan = OutputPlan(f"{record}/", frozenset(range(len(inputs))))
    return [Outlet(plan, partial(recording, record), watch, heartbeat)]


def _known(look: Look, manifest: Manifest) -> Look:
    """`look`, if its classes exist in the model and its opacity is valid; raises InputError otherwise."""
    names = [item.name for item in manifest.classes]
    if unknown := sorted(look.clear.difference(names)):
        raise InputError(
            f"got the unknown class {unknown[0]!r} to leave clear, expected one of {', '.join(names)}; change it",
            parameter="clear",
        )
    if not 0 <= look.opacity <= 1:
        raise InputError(f"got an opacity of {look.opacity}, expected 0 to 1; change it", parameter="opacity")
    return look
