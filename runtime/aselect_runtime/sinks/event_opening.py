"""Opening the destination of events that a path or URI names."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from aselect_runtime.errors import InputError
from aselect_runtime.redaction import redact
from aselect_runtime.sinks.event_lines import event_lines
from aselect_runtime.sinks.event_sink import EventContext, EventSink

SCHEMES = {"mqtt": "mqtt_events", "mqtts": "mqtt_events", "http": "webhook", "https": "webhook"}
"""Scheme -> module of this package; its function of the same name opens `(uri, context)` as an EventSink."""
SUPPORTED = "events.jsonl, mqtt://host/topic or https://host/path (a webhook)"


def open_events(uri: str, context: EventContext) -> EventSink:
    """The destination that a path or URI names; raises InputError if it is not supported."""
    scheme = uri.split("://", 1)[0] if "://" in uri else ""
    if scheme in SCHEMES:
        name = SCHEMES[scheme]
        opened: EventSink = getattr(import_module(f"aselect_runtime.sinks.{name}"), name)(uri, context)
        return opened
    if not scheme and Path(uri).suffix == ".jsonl":
        return event_lines(Path(uri))
    raise InputError(
        f"{redact(uri)}: got an unknown destination for events, expected {SUPPORTED}; choose one of these",
        parameter="events",
    )
