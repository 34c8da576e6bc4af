"""The types of all destinations of events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from aselect_runtime.redaction import redact
from aselect_runtime.rules import Event, Rules
from aselect_runtime.sources.addresses import quoted

Deliver: TypeAlias = Callable[[Event], None]
"""Delivers one event. WriteError means that it may succeed later: the event is sent again. Any other AselectError means
that it will never succeed."""
EventSink: TypeAlias = AbstractContextManager[Deliver]
"""The pipeline enters, delivers and exits in one thread per sink, fed by a bounded queue."""


@dataclass(frozen=True)
class EventContext:
    """What a destination may announce before the first event."""

    rules: Rules
    sources: tuple[str, ...]
    """The printable name of each input of the run."""


def event_place(uri: str) -> str:
    """The name for messages. The path of a webhook is left out, because for many services it is a secret."""
    parts = urlsplit(quoted(uri))
    if parts.scheme not in {"http", "https"}:
        return redact(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
