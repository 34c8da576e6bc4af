"""The protocol that all outputs implement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import Protocol, TypeAlias

from aselect_runtime.results import Result

Write: TypeAlias = Callable[[Result], None]

EACH = "{name}"
"""Placeholder in the name of an output with one file per frame: replaced by the frame's label."""
STDOUT = "-"
"""The output that writes JSON lines to the standard output."""
VIDEOS, IMAGES = frozenset({".mp4", ".mkv"}), frozenset({".png", ".jpg"})
"""Suffixes of overlays; a `.jpg` is written of each frame only."""


class Sink(Protocol):
    """A context manager whose `__enter__` returns the function that writes one result.

    A normal exit completes the output, an exit by an exception removes it. The pipeline enters, writes and exits in one
    thread per sink, fed by a bounded queue. An AselectError from `write` disables this sink for the rest of the run, so
    a network sink should reconnect by itself instead of raising.

    A function with @contextmanager that yields `write` is a sink. If `write` has a method `tell`, it is called
    with the run's Health every few seconds, from another thread, while no results come (a hung session gives none).
    If `write` has a method `sent` that returns Sent, health has its counts: a network sink may know only later what was
    sent.
    """

    def __enter__(self) -> Write: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


@dataclass(frozen=True)
class Sent:
    """What a network sink has done with the results that it was given."""

    written: int
    """Results that were sent."""
    dropped: int
    """Results that it could not send."""
    fault: str
    """Why the latest result was dropped; empty if it was not."""


def sink_name(sink: Sink) -> str:
    """The name of a sink object in messages and health: its attribute `name`, or the name of its class."""
    return str(getattr(sink, "name", type(sink).__name__))


class SinkClosed(Exception):  # noqa: N818 - not an error
    """Raised by `write` if the user closed the output, for example a window."""


def writes_files(uri: str) -> bool:
    """Whether an output is a file or folder, which gets every frame of a video, and not a screen or network output."""
    return "://" not in uri


def draws(uri: str) -> bool:
    """Whether an output shows the colours of the classes over the image."""
    if not writes_files(uri):
        return uri.startswith("display://")
    return PurePath(uri).suffix in VIDEOS | IMAGES and not uri.endswith("/")
