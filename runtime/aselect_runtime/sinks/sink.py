"""What every output is."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TypeAlias

from aselect_runtime.results import Result

Write: TypeAlias = Callable[[Result], None]

EACH = "{name}"
"""Stands for the image, or the video and the frame's number, in the name of an output that is one file for each."""
STDOUT = "-"
"""The output that is JSON lines on the standard output."""


class Sink(Protocol):
    """Entering gives the way to write one result. Leaving completes the file; leaving by an error removes it.

    The pipeline enters, writes and leaves in one thread of the sink's own, behind a bounded queue. An AselectError that
    `write` raises disables this sink for the rest of the run, so a network sink reconnects by itself instead.

    A function with @contextmanager that yields `write` makes one. Where `write` has a method `tell`, that is given the
    run's Health every few seconds, from another thread, whether results come or not: a hung session gives none.
    """

    def __enter__(self) -> Write: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


def sink_name(sink: Sink) -> str:
    """What messages and health call a sink object: its attribute `name`, or else its class."""
    return str(getattr(sink, "name", type(sink).__name__))


class SinkClosed(Exception):  # noqa: N818 - not an error
    """Raised by `write` where somebody closed the output, a window for example."""


def writes_files(uri: str) -> bool:
    """Whether an output is a file or folder, which must hold every frame of a video, and not a screen or network."""
    return "://" not in uri
