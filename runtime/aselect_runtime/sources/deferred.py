"""Frames that arrived but are not decoded or converted yet: of a live source most give way to a newer one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from aselect_runtime.frames import Frame
from aselect_runtime.results import Captured, SourceInfo

Make = Callable[[], Frame | None]
"""Makes a frame, BGR uint8 [H, W, 3], once and in any one thread; None of one that is too damaged."""


@dataclass(frozen=True)
class Arrived:
    """A frame of a live source at the moment of its arrival."""

    make: Make
    index: int
    label: str
    source: SourceInfo
    t_capture: float = field(default_factory=time.time)
    t_monotonic: float = field(default_factory=time.monotonic)

    def captured(self) -> Captured | None:
        """The frame itself, with the times of its arrival; None of one that is too damaged."""
        frame = self.make()
        if frame is None:
            return None
        return Captured(frame, self.index, self.label, self.source, self.t_capture, self.t_monotonic)


@runtime_checkable
class Deferring(Protocol):
    """A source that can hand over frames before they are made."""

    def arrivals(self) -> Iterator[Arrived]: ...
