"""What every output is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from aselect_runtime.results import Result

Write: TypeAlias = Callable[[Result], None]
Sink: TypeAlias = AbstractContextManager[Write]
"""Entering gives the way to write one result. Leaving completes the file; leaving by an error removes it.

The pipeline enters, writes and leaves in one thread of the sink's own, behind a bounded queue. An AselectError that
`write` raises disables this sink for the rest of the run, so a network sink reconnects by itself instead.
"""


class SinkClosed(Exception):  # noqa: N818 - not an error
    """Raised by `write` where somebody closed the output, a window for example."""


def writes_files(uri: str) -> bool:
    """Whether an output is a file or folder, which must hold every frame of a film, and not a screen or network."""
    return "://" not in uri
