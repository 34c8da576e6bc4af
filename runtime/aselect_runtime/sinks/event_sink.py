"""What every place for events is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from aselect_runtime.redaction import redact
from aselect_runtime.rules import Event, Rules

Deliver: TypeAlias = Callable[[Event], None]
"""Takes one event. A WriteError says that it may succeed later: the event is given again. Any other AselectError says
that it never will."""
EventSink: TypeAlias = AbstractContextManager[Deliver]
"""The pipeline enters, delivers and leaves in one thread of the sink's own, behind a bounded queue."""


@dataclass(frozen=True)
class EventContext:
    """What may be told before the first event."""

    rules: Rules
    sources: tuple[str, ...]
    """The printable name of each input of the run."""


def event_place(uri: str) -> str:
    """What messages call it. The path of a webhook is left out: with many services it is the secret."""
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"}:
        return redact(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
