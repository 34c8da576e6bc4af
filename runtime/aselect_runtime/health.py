"""How a run is doing: a snapshot that travels with every result, and what the board says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

SourceState = Literal["connecting", "live", "lost", "ended"]
SinkState = Literal["working", "stalled", "failed"]


@dataclass(frozen=True)
class SourceHealth:
    """One input since the start of the run."""

    name: str
    """Printable, without credentials."""
    state: SourceState = "connecting"
    frames: int = 0
    """Frames with a result."""
    dropped: int = 0
    """Frames that gave way to a newer one before inference."""
    reconnects: int = 0
    """How often a fresh connection delivered again after one was lost."""
    fault: str = ""
    """Why the last connection was lost, or a video ended badly."""
    repeated: int = 0
    """Frames with a result that were not inferred, since nothing moved."""
    skipped: int = 0
    """Images that do not decode."""


@dataclass(frozen=True)
class SinkHealth:
    """One output since the start of the run."""

    name: str
    """Printable, without credentials."""
    state: SinkState = "working"
    written: int = 0
    dropped: int = 0
    """Results that gave way to newer ones because the sink was slow, or came after it failed."""
    waiting: int = 0
    """Results in its queue now."""
    fault: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Health:
    """A run at one moment, at most a second old when a result carries it; never changes afterwards."""

    frames: int = 0
    """Frames with a result."""
    seconds: float = 0.0
    """Since the start of the run."""
    fps: float = 0.0
    """Results per second lately."""
    sources: tuple[SourceHealth, ...] = ()
    sinks: tuple[SinkHealth, ...] = ()
    stalled: tuple[str, ...] = ()
    """Stages that are stuck in one operation: `infer`, `capture rtsp://***@host/`, `output video.mp4`."""
    temperatures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Degrees Celsius by thermal zone, where the board tells."""
    power_mode: str | None = None
    """Of a Jetson, for example `MAXN_SUPER`."""

    @property
    def dropped(self) -> int:
        """Frames of all sources that gave way to newer ones before inference."""
        return sum(source.dropped for source in self.sources)

    @property
    def repeated(self) -> int:
        """Frames of all sources that have an earlier frame's answer, since nothing moved."""
        return sum(source.repeated for source in self.sources)

    @property
    def reconnects(self) -> int:
        """Reconnects of all sources."""
        return sum(source.reconnects for source in self.sources)
