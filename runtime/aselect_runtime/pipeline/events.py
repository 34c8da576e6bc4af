"""Rules in a run: every result is evaluated, and events are sent to their destinations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aselect_runtime.errors import InputError
from aselect_runtime.health import SinkHealth
from aselect_runtime.pipeline.deliveries import Delivery, close_all
from aselect_runtime.pipeline.output_plan import refuse_below, refuse_taken
from aselect_runtime.pipeline.placeholders import TIME, dated, now, refuse_placeholders
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.rules import Event, Rules, Sight, Watch, load_rules
from aselect_runtime.sinks.event_lines import snapshot_folder
from aselect_runtime.sinks.event_opening import open_events
from aselect_runtime.sinks.event_recording import EventRecording
from aselect_runtime.sinks.event_sink import EventContext, EventSink, event_place
from aselect_runtime.sinks.sink import writes_files


@dataclass(frozen=True)
class EventPlan:
    """The rules of a run, and the destinations of their events: paths and URIs, see `open_events`, or objects."""

    rules: Rules
    places: tuple[str | EventSink, ...] = ()
    videos: Path | None = None
    """The folder of the recorded videos, if one of the destinations is EventVideos."""


def plan_events(
    rules: Path | None,
    places: Sequence[str],
    outputs: Sequence[str],
    inputs: Sequence[str],
    recording: EventRecording | None = None,
) -> EventPlan | None:
    """The rules and destinations of a run; None if there is no file of rules.

    Raises InputError for rules without a destination or a destination without rules; RecordError for invalid rules.
    """
    if rules is None:
        if places or recording is not None:
            raise InputError(
                "got a destination for events but no rules, expected both; give a file of rules", parameter="rules"
            )
        return None
    if not places and recording is None and not any(uri.split("://", 1)[0] in {"http", "https"} for uri in outputs):
        raise InputError(
            "got rules but no destination for their events, expected at least one, or a live page that shows them; "
            "add a destination",
            parameter="events",
        )
    for place in filter(writes_files, places):
        refuse_placeholders(place, (TIME,), "events")
        refuse_below(inputs, place, "a file with snapshots beside it", "events")
    if recording is not None:
        refuse_placeholders(str(recording.folder), (TIME,), "record_events")
        refuse_below(inputs, str(recording.folder), "a folder of videos", "record_events")
    loaded, moment = load_rules(rules), now()
    places = [dated(place, moment) for place in places]
    if recording is None:
        return EventPlan(loaded, tuple(places))
    recording = replace(recording, folder=Path(dated(str(recording.folder), moment)))
    from aselect_runtime.sinks.event_videos import EventVideos  # here, because it needs an optional package

    return EventPlan(loaded, (*places, EventVideos(recording, loaded, inputs)), recording.folder)


def _refuse_clashes(plan: EventPlan, taken: set[Path]) -> None:
    """Raise InputError if an output, or another destination, has the path of what is written for events."""
    files = [Path(place) for place in plan.places if isinstance(place, str) and writes_files(place)]
    for file in files:
        refuse_taken(snapshot_folder(file), taken, "snapshots", "events")
    if plan.videos is not None:  # it may be the folder of the snapshots
        refuse_taken(plan.videos, taken, "videos", "record_events")
    for file in files:
        if file.resolve() in taken:
            raise InputError(
                f"{file}: got this path twice, expected a separate file for events; choose another", parameter="events"
            )
        taken.add(file.resolve())


class EventFlow:
    """Evaluates the results of one run; `taken` are the paths that its outputs write.

    Raises RecordError if the rules do not fit the model or the inputs, InputError for a path that is used twice.
    """

    def __init__(self, plan: EventPlan, manifest: Manifest, sources: Sequence[str], taken: set[Path]) -> None:
        plan.rules.check(manifest, len(sources))
        _refuse_clashes(plan, set(taken))
        self._task = manifest.task
        self._rules = plan.rules
        self._watch = Watch(plan.rules, tuple(item.name for item in manifest.classes))
        context = EventContext(plan.rules, tuple(sources))
        self._deliveries = [_delivery(place, context) for place in plan.places]
        self._open: list[Delivery] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Open the destinations; after the block, end active events. Raises what destinations raise."""
        try:
            for delivery in self._deliveries:
                delivery.start()
                self._open.append(delivery)
            yield
        finally:
            self._deliver(self._watch.finish())
            for delivery in self._open:
                delivery.end()

    def close(self) -> None:
        """Wait until the destinations have accepted the events, for a limited time."""
        close_all(self._open)

    def process(self, result: Result) -> Result:
        """Evaluate a result and queue its events; returns the result with its zones and the latest events."""
        self._deliver(self._watch.observe(self._sight(result)))
        return replace(result, zones=self._rules.zones_of(result.stream), events=self._watch.recent)

    def check_silence(self) -> None:
        """End the events of cameras that have stopped sending; call it from any thread, every few seconds."""
        self._deliver(self._watch.look_for_silence(time.monotonic()))

    def health(self) -> tuple[SinkHealth, ...]:
        """State and counts of each destination."""
        return tuple(delivery.health() for delivery in self._deliveries)

    def _sight(self, result: Result) -> Sight:
        captured = result.captured
        return Sight(
            stream=result.stream,
            source=captured.source.name,
            live=captured.source.live,
            seconds=captured.seconds,
            unix=captured.t_capture,
            frame=captured.frame,
            class_map=result.model_class_map if self._task == "seg" else None,
            scores=result.outputs["scores"] if self._task == "cls" else None,
        )

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events if self._deliveries else ():
            packed = event.packed()
            for delivery in self._deliveries:
                delivery.offer(packed)


def _delivery(place: str | EventSink, context: EventContext) -> Delivery:
    if isinstance(place, str):
        return Delivery(event_place(place), partial(open_events, place, context))
    return Delivery(str(getattr(place, "name", type(place).__name__)), lambda: place)
